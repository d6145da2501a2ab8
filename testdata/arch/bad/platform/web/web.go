// Package web is as it should be.
package web

import _ "net/http"
