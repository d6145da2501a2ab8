package telephony

import (
	_ "embed"

	"switchboard/platform/web"
)

//go:embed ui/board.html
var boardHTML []byte

// boardHTTP serves
//
//	GET /telephony/board a page on which supervisors watch calls move
type boardHTTP struct{}

func (boardHTTP) routes(r *web.Router) error {
	return r.HTML(web.Op{ID: "telephony-board", Path: "/telephony/board", Tag: tag,
		Summary:     "Open the board",
		Description: "A page that shows the calls by state, live, and the events of each. The key is taken out of the address bar.",
		Scope:       "telephony:read", KeyInQuery: true}, boardHTML)
}
