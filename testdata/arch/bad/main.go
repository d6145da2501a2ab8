// Bad is a tree in which every rule of the house is broken. It never builds.
package main

import (
	_ "bad/modules/crm"
	_ "bad/platform/apptest"
)

func main() {}
