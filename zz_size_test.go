package main

import (
	"os"
	"strconv"
)

var crowdSize = func() int {
	if n, err := strconv.Atoi(os.Getenv("CROWD")); err == nil {
		return n
	}
	return 8
}()
