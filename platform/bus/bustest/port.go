package bustest

import (
	"net/url"
	"strconv"
)

func portOf(text string) (int, error) {
	u, err := url.Parse(text)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(u.Port())
}
