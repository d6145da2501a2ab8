package gateway

import (
	_ "embed"

	"switchboard/platform/web"
)

//go:embed ui/playground.html
var playgroundPage []byte

// playgroundHTTP serves
//
//	GET /gateway/playground a page to join rooms, publish events and see them arrive
type playgroundHTTP struct{}

func (playgroundHTTP) routes(r *web.Router) error {
	return r.HTML(web.Op{ID: "gateway-playground", Path: "/gateway/playground", Tag: "gateway",
		Summary:     "Open the playground",
		Description: "A page to join and leave rooms, publish events and see them arrive. The key is taken out of the address bar; `?rooms=a,b` joins rooms at once.",
		Scope:       connectWith, KeyInQuery: true}, playgroundPage)
}
