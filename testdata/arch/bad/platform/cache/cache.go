// Package cache is not in the plan.
package cache
