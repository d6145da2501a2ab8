package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/bus"
	"switchboard/platform/web"
)

// bell is the smallest module there is: one route, one table, one stream.
var bell = app.Module{
	Name: "bell", Doc: "rings", Config: func() any { return &struct{}{} },
	Migrations: fstest.MapFS{"migrations/0001_bell.sql": {Data: []byte("create table bell_ring (id bigint not null primary key);\n")}},
	New:        func(p app.Platform) (app.Service, error) { return &bellService{p}, nil },
}

type bellService struct{ p app.Platform }

func (s *bellService) Routes(r *web.Router) error {
	web.Register(r, web.Op{ID: "bell-ring", Method: http.MethodGet, Path: "/bell/ring", Tag: "bell", Summary: "Ring", Scope: "admin"},
		func(context.Context, *struct{}) (*struct{ Body struct{} }, error) {
			return &struct{ Body struct{} }{}, nil
		})
	return nil
}

func (s *bellService) Start(ctx context.Context) error {
	return s.p.Bus.Declare(ctx, bus.Stream{Name: "BELL", Subjects: []string{"bell.>"}, MaxBytes: 1 << 20})
}

func (s *bellService) Run(ctx context.Context) error   { <-ctx.Done(); return nil }
func (s *bellService) Ready(ctx context.Context) error { return s.p.DB.Ping(ctx) }

// A module that is off answers 404, is not described, opens no file, has no
// stream and runs nothing. The test is not parallel: it looks at all goroutines
// of the process.
func TestModuleThatIsOffIsNotThere(t *testing.T) {
	for name, start := range map[string]func() *apptest.Product{
		"by --modules": func() *apptest.Product {
			return apptest.Start(t, append(modules[:len(modules):len(modules)], bell), apptest.Args("--modules=bell"))
		},
		"by APP_MODULES": func() *apptest.Product {
			return apptest.Start(t, append(modules[:len(modules):len(modules)], bell), apptest.Env("APP_MODULES=bell"))
		},
		"in another list": func() *apptest.Product { return apptest.Start(t, []app.Module{bell}) },
	} {
		t.Run(name, func(t *testing.T) {
			apptest.Eventually(t, func() string { return goroutinesOf("switchboard/modules/") }) // of a test before
			p := start()
			defer p.Stop()
			if why := goroutinesOf("switchboard/modules/"); why != "" {
				t.Error(why)
			}
			checkOff(t, p, "collector")
			checkOff(t, p, "gateway", "/events", "/socket.io/?EIO=4&transport=polling")
			checkOff(t, p, "telephony", "/webhook")
			checkOff(t, p, "mailing")
			checkOff(t, p, "crm", "/crm/users", "/crm/integration/status")
			checkOff(t, p, "eventlog")
			checkOn(t, p, "bell")
		})
	}
}

// What is not chosen with --modules=collector is off, and collector is on.
func TestModuleThatIsChosenIsThere(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, append(modules[:len(modules):len(modules)], bell), apptest.Args("--modules=collector"))
	checkOff(t, p, "bell")
	checkOff(t, p, "gateway", "/events")
	checkOff(t, p, "telephony", "/webhook")
	checkOff(t, p, "eventlog")
	checkOn(t, p, "collector")
	var ready web.Readiness
	if status := p.CallAs("", http.MethodGet, "/readyz", nil, &ready); status != http.StatusOK || len(ready.Modules) != 1 || ready.Modules["collector"].State != "ready" {
		t.Errorf("/readyz: %d %+v", status, ready)
	}
}

func TestTheGatewayRunsAlone(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, modules, apptest.Args("--modules=gateway"))
	checkOff(t, p, "collector")
	checkOff(t, p, "telephony")
	checkOn(t, p, "gateway")
}

func TestTelephonyRunsAlone(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, modules, apptest.Args("--modules=telephony"))
	checkOff(t, p, "collector")
	checkOff(t, p, "gateway")
	checkOn(t, p, "telephony")
}

func TestMailingRunsAlone(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, modules, apptest.Args("--modules=mailing"))
	checkOff(t, p, "collector")
	checkOff(t, p, "telephony")
	checkOn(t, p, "mailing")
}

func TestTheCRMRunsAlone(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, modules, apptest.Args("--modules=crm"))
	checkOff(t, p, "collector")
	checkOff(t, p, "mailing")
	checkOn(t, p, "crm")
}

func goroutinesOf(text string) string {
	buf := make([]byte, 64<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, text) {
			return "a goroutine of a module runs:\n" + stack
		}
	}
	return ""
}

// probes are a route and a stream of each module.
var probes = map[string]struct{ path, streams string }{
	"collector": {"/collector/events", "COLLECTOR"},
	"gateway":   {"/gateway/rooms", "GATEWAY"},
	"telephony": {"/telephony/calls", "TELEPHONY"},
	"mailing":   {"/mailing/campaigns", "MAILING"},
	"crm":       {"/crm/users", "CRM"},
	"eventlog":  {"/eventlog", "EVENTLOG"}, // of the platform: there when a module logs
	"bell":      {"/bell/ring", "BELL"},
}

func checkOff(t *testing.T, p *apptest.Product, module string, more ...string) {
	t.Helper()
	probe := probes[module]
	for _, path := range append(more, probe.path, probe.path+"/", "/"+module, "/"+module+"/nosuch") {
		resp, text := p.Exchange(p.Request(p.Key, http.MethodGet, path, nil))
		var problem struct {
			Title  string
			Status int
		}
		if resp.StatusCode != http.StatusNotFound || resp.Header.Get("Content-Type") != "application/problem+json" ||
			json.Unmarshal(text, &problem) != nil || problem.Status != http.StatusNotFound || problem.Title == "" {
			t.Errorf("GET %s: %s %s %s", path, resp.Status, resp.Header.Get("Content-Type"), text)
		}
	}
	if strings.Contains(description(p), module) {
		t.Errorf("the OpenAPI tells of %s", module)
	}
	if _, metrics := p.Exchange(p.Request("", http.MethodGet, "/metrics", nil)); strings.Contains(string(metrics), module) {
		t.Errorf("the metrics tell of %s", module)
	}
	if files := filesOf(t, p, module, probe.streams); len(files) > 0 {
		t.Errorf("files of %s: %v", module, files)
	}
}

func checkOn(t *testing.T, p *apptest.Product, module string) {
	t.Helper()
	if status := p.Call(http.MethodGet, probes[module].path, nil, nil); status != http.StatusOK {
		t.Errorf("GET %s: %d", probes[module].path, status)
	}
	if !strings.Contains(description(p), module) {
		t.Errorf("the OpenAPI does not tell of %s", module)
	}
	if files := filesOf(t, p, module, probes[module].streams); len(files) < 2 {
		t.Errorf("files of %s: %v", module, files)
	}
}

func description(p *apptest.Product) string {
	_, text := p.Exchange(p.Request("", http.MethodGet, "/openapi.json", nil))
	return string(text)
}

// filesOf lists what bears the name of a module or its streams.
func filesOf(t *testing.T, p *apptest.Product, module, streams string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(p.Dir, func(path string, entry os.DirEntry, err error) error {
		if name := filepath.Base(path); strings.HasPrefix(name, module) || strings.HasPrefix(name, streams) {
			files = append(files, path)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return files
}
