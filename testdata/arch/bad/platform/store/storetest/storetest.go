// Package storetest is a test kit.
package storetest

import _ "testing"
