// Package bench measures the product as its users meet it, over HTTP and in a
// process of its own, each figure beside the raw limit of this machine
// measured in the same run. `make bench` runs it; docs/benchmarks.md keeps
// what it printed and says what limits each figure.
package bench
