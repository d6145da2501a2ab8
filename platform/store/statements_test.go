package store

import "testing"

func TestParametersInOrderLoseTheirNumbers(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"insert into t values ($1,$2),($3,$4)": "insert into t values (?,?),(?,?)",
		"select 1":                             "select 1",
		"select $1, $1":                        "select $1, $1",
		"select $2, $1":                        "select $2, $1",
		"select '$9', $1":                      "select '$9', ?",
		"select 'it''s $2', $1":                "select 'it''s $2', ?",
		"select $x":                            "select $x",
		"select $":                             "select $",
	} {
		if got := unnumbered(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestChunksAreFewSizesAndCoverAll(t *testing.T) {
	t.Parallel()
	for n := 1; n < 1000; n++ {
		left := n
		for left > 0 {
			c := Chunk(left)
			if c < 1 || c > left || c > 64 || c&(c-1) != 0 {
				t.Fatalf("Chunk(%d) = %d", left, c)
			}
			left -= c
		}
	}
}
