// Package app knows main.
package app

import _ "bad"
