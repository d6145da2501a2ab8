package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"switchboard/platform/auth"
)

// Router is where modules mount their routes. It is filled while the product
// is wired, by one goroutine, before Serve. Mistakes in an Op are collected:
// Validate reports them all, and Serve refuses to start with any.
type Router struct {
	// API is for what Register does not cover, such as huma's sse.Register;
	// operations must come from Op.Operation.
	API huma.API

	server          *Server
	mux             *http.ServeMux
	module          string // tag of the operation being mounted; names its unnamed types
	preflights      map[string]*preflight
	problemResponse *huma.Response
	tags            map[string]string
	mistakes        []error

	spec func() (spec, error)
}

func newRouter(s *Server, title, version string) *Router {
	r := &Router{server: s, mux: http.NewServeMux(), preflights: map[string]*preflight{}, tags: map[string]string{}}
	r.API = huma.NewAPI(r.describe(title, version), adapter{r})
	r.problemResponse = &huma.Response{
		Description: "Problem",
		Content:     map[string]*huma.MediaType{problemType: {Schema: r.schemaOf(ProblemDocument{})}},
	}
	r.spec = sync.OnceValues(r.render)
	return r
}

// Register mounts a huma operation: I and O are read for its parameters, body
// and answer, and the request is validated before h runs. An error of h is
// answered as Fail does.
func Register[I, O any](r *Router, op Op, h func(context.Context, *I) (*O, error)) {
	if err := op.check(); err != nil {
		r.mistakes = append(r.mistakes, err)
		return
	}
	r.guard(op, func() {
		huma.Register(r.API, op.Operation(r), func(ctx context.Context, in *I) (*O, error) {
			out, err := h(ctx, in)
			if err != nil {
				p := problemOf(err)
				if x := exchangeOf(ctx); x != nil {
					x.note(p)
				}
				return nil, p
			}
			return out, nil
		})
	})
}

// Handle mounts a plain handler behind the same gates as Register. The
// OpenAPI says of it what op says.
func (r *Router) Handle(op Op, h http.Handler) {
	if err := op.check(); err != nil {
		r.mistakes = append(r.mistakes, err)
		return
	}
	r.guard(op, func() {
		if !op.Hidden && op.Method != "" {
			o := op.Operation(r)
			o.Parameters = append(op.pathParams(), o.Parameters...)
			for _, status := range op.Errors {
				o.Responses[fmt.Sprint(status)] = &huma.Response{Description: http.StatusText(status), Content: r.problemResponse.Content}
			}
			r.API.OpenAPI().AddOperation(&o)
		}
		r.mount(op, h)
	})
}

// Tag describes a module's group of routes in the OpenAPI.
func (r *Router) Tag(name, description string) { r.tags[name] = description }

// Validate reports every mistake made while routes were mounted.
func (r *Router) Validate() error { return errors.Join(r.mistakes...) }

// guard turns the panics of ServeMux and huma about a bad route into mistakes.
func (r *Router) guard(op Op, mount func()) {
	defer func() {
		if v := recover(); v != nil {
			r.mistakes = append(r.mistakes, fmt.Errorf("web: route %s %s: %v", op.Method, op.Path, v))
		}
	}()
	mount()
}

// adapter is where huma hands over its operations.
type adapter struct{ r *Router }

func (a adapter) Handle(o *huma.Operation, h func(huma.Context)) {
	op, ok := o.Metadata[metadataKey].(Op)
	if !ok {
		panic("mounted past web.Register; use Op.Operation")
	}
	a.r.mount(op, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// huma reads bodies whole anyway. Read here, their faults are
		// answered in one way for huma and for plain handlers.
		if x, ok := w.(*exchange); ok && x.body != nil {
			if _, err := x.body.load(r.ContentLength); err != nil {
				Fail(w, r, err)
				return
			}
		}
		h(humago.NewContext(o, r, w))
	}))
}

func (a adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.r.server.ServeHTTP(w, r) }

func (r *Router) mount(op Op, h http.Handler) {
	rt := &route{op: op, server: r.server, handler: h}
	rt.series = r.server.meter.series(op.Path, op.Method)
	if op.CORS {
		p := r.preflights[op.Path]
		if p == nil {
			p = &preflight{}
			r.preflights[op.Path] = p
			pre := Op{Method: http.MethodOptions, Path: op.Path, Public: true, Hidden: true, Tag: op.tag()}
			r.mux.Handle(pre.pattern(), &route{op: pre, server: r.server, handler: p, series: r.server.meter.series(pre.Path, pre.Method)})
		}
		p.allow(op.Method)
		rt.preflight = p
	}
	r.mux.Handle(op.pattern(), rt)
}

// route is the chain of gates in front of one handler.
type route struct {
	op        Op
	server    *Server
	handler   http.Handler
	preflight *preflight // set with Op.CORS
	series    *series
}

// ServeHTTP is called by the mux, with the exchange.
func (rt *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := w.(*exchange)
	x.routed, x.route = true, rt
	ctx := r.Context()
	if !rt.op.Public && !rt.op.OwnAuth {
		p, err := rt.server.authenticate(r, &rt.op)
		if err != nil {
			Fail(x, r, err)
			return
		}
		x.key = p.Key.ID
		x.Header()["Cache-Control"] = headerNoStore
		if rt.op.CORS {
			if err := AllowOrigin(w, r, p); err != nil {
				Fail(x, r, err)
				return
			}
		}
		ctx = auth.With(ctx, p)
	}
	ctx = context.WithValue(ctx, exchangeKey{}, x)
	if rt.op.Stream {
		var end func()
		ctx, end = x.stream(ctx)
		defer end()
	}
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		if err := x.admit(r); err != nil {
			Fail(x, r, err)
			return
		}
	}
	if rt.op.Creates {
		if keys := r.Header[headerIdempotencyKey]; keys != nil {
			rt.server.idempotency.serve(x, r, keys, rt.handler)
			return
		}
	}
	rt.handler.ServeHTTP(x, r)
}

// stream lifts the write deadline and ties ctx to the life of the server.
func (x *exchange) stream(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(x.server.stopping, cancel)
	x.liftWriteDeadline()
	return ctx, func() { unhook(); cancel() }
}
