package config

import (
	"strings"
)

// didYouMean gives "; did you mean x?" for the candidate nearest to name, or
// nothing if none is near.
func didYouMean(name string, candidates []string) string {
	best, least := "", max(2, len(strings.TrimPrefix(name, prefix))/4+1)
	if len(name) <= 3 {
		least = 2
	}
	for _, c := range candidates {
		d := distance(plain(name), plain(c))
		if d < least {
			best, least = c, d
		}
	}
	if best == "" { // the right name in the wrong place
		for _, c := range candidates {
			if strings.HasSuffix(c, "."+name) {
				if best != "" {
					best = ""
					break
				}
				best = c
			}
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// plain makes a.b_c, a-b.c and A_B_C equal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == '_' || r == '-' {
			return -1
		}
		return r
	}, strings.ToLower(s))
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	two, one, now := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range one {
		one[j] = j
	}
	for i := 1; i <= len(x); i++ {
		now[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			now[j] = min(one[j]+1, now[j-1]+1, one[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				now[j] = min(now[j], two[j-2]+1)
			}
		}
		two, one, now = one, now, two
	}
	return one[len(y)]
}
