// Package apptest is a test kit.
package apptest
