package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"switchboard/platform/apptest"
)

// What document, dashboard and alerts name is there, and every metric of ours is
// in the document.
func TestMetricsThatAreNamedAreThere(t *testing.T) {
	t.Parallel()
	served, declared := servedMetrics(t), declaredMetrics(t)
	there := func(name string) bool {
		if declared[name] || served.has(name) {
			return true
		}
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		// Of one that is not served yet the kind is not known.
		return served[base] == "histogram" || declared[base] && !served.has(base)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)`([a-z_]+)(?:\\{[a-z,]+\\})?`").FindAllStringSubmatch(readText(t, "docs/metrics.md"), -1) {
		if strings.Contains(m[1], "_") && !strings.HasSuffix(m[1], "_") && !isResult(m[1]) {
			documented[m[1]] = true
		}
	}
	used := map[string]string{}
	for name := range documented {
		used[name] = "docs/metrics.md"
	}
	for _, expr := range dashboardExpressions(t) {
		for _, name := range metricsIn(expr) {
			used[name] = "deploy/grafana/switchboard.json: " + expr
		}
	}
	for _, expr := range alertExpressions(t) {
		for _, name := range metricsIn(expr) {
			used[name] = "deploy/prometheus/alerts.yaml: " + expr
		}
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if !isAhead(name) && name != "up" && !there(name) {
			t.Errorf("%s: nothing registers %s", used[name], name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		if isAhead(name) {
			t.Errorf("%s is made: take it off the list of those ahead", name)
		}
		if !documented[name] {
			t.Errorf("docs/metrics.md says nothing of %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if ours := !slices.ContainsFunc([]string{"go_", "process_", "promhttp_"}, func(p string) bool { return strings.HasPrefix(name, p) }); ours && !declared[name] {
			t.Errorf("%s is served, and the source does not show where it is made", name)
		}
	}
}

// ahead are metrics that are named and not made yet.
var ahead = []string{}

func isAhead(name string) bool {
	return slices.ContainsFunc(ahead, func(base string) bool { return name == base || name == base+"_bucket" })
}

// isResult tells whether a word of the document is the value of a label.
func isResult(word string) bool { return word == "server_error" }

// kinds are types of metrics by their names.
type kinds map[string]string

func (k kinds) has(name string) bool { _, ok := k[name]; return ok }

// servedMetrics are those that a product which has done nothing yet tells of.
func servedMetrics(t *testing.T) kinds {
	t.Helper()
	p := apptest.Start(t, modules)
	_, text := p.Exchange(p.Request("", http.MethodGet, "/metrics", nil))
	out := kinds{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE ([a-zA-Z_:]+) (\w+)$`).FindAllStringSubmatch(string(text), -1) {
		out[m[1]] = m[2]
	}
	if !out.has("bus_ready") {
		t.Fatalf("no metrics: %s", text)
	}
	return out
}

// declaredMetrics are those that the source makes: with labels they are served
// only once they are counted.
func declaredMetrics(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, f := range openHouse(t, ".").files {
		for _, name := range f.metrics {
			if !f.test && name != "" {
				out[name] = true
			}
		}
	}
	// The bus puts its name before each.
	for _, m := range regexp.MustCompile(`\b(?:counter|gauge)\("([a-z_]+)"`).FindAllStringSubmatch(readText(t, "platform/bus/metrics.go"), -1) {
		out["bus_"+m[1]] = true
	}
	if len(out) < 40 {
		t.Fatalf("only %d metrics in the source", len(out))
	}
	return out
}

// dashboardExpressions gives the queries of the dashboard, and judges its form.
func dashboardExpressions(t *testing.T) (out []string) {
	t.Helper()
	type target struct {
		Expr, LegendFormat string
		Datasource         struct{ Type, UID string }
	}
	var dashboard struct {
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type, Definition string }
		}
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ H, W, X, Y int }
			Targets     []target
		}
	}
	if err := json.Unmarshal([]byte(readText(t, "deploy/grafana/switchboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.SchemaVersion < 39 || len(dashboard.Templating.List) == 0 || dashboard.Templating.List[0].Type != "datasource" {
		t.Errorf("schema %d, variables %+v", dashboard.SchemaVersion, dashboard.Templating.List)
	}
	var rows []string
	seen := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range dashboard.Panels {
		if seen[p.ID] {
			t.Errorf("panel %q: another has its id", p.Title)
		}
		seen[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if taken[[2]int{x, y}] != "" || x >= 24 {
					t.Fatalf("panel %q lies on %q or outside", p.Title, taken[[2]int{x, y}])
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
		} else if len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, one := range p.Targets {
			if one.Datasource.UID != "${datasource}" {
				t.Errorf("panel %q does not use the variable", p.Title)
			}
			out = append(out, one.Expr)
		}
	}
	if want := []string{"Overview", "Collector", "Gateway", "Telephony", "Mailing", "CRM", "Bus and store"}; !slices.Equal(rows, want) {
		t.Errorf("rows: %q", rows)
	}
	return out
}

// alertExpressions gives the conditions of the alerts, and judges their form.
func alertExpressions(t *testing.T) (out []string) {
	t.Helper()
	var scrape struct {
		RuleFiles []string `yaml:"rule_files"`
	}
	if err := yaml.Unmarshal([]byte(readText(t, "deploy/prometheus/prometheus.yaml")), &scrape); err != nil {
		t.Fatal(err)
	}
	for _, file := range scrape.RuleFiles {
		if _, err := os.Stat("deploy/prometheus/" + file); err != nil {
			t.Error(err)
		}
	}
	var alerts struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(readText(t, "deploy/prometheus/alerts.yaml")), &alerts); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || names[r.Alert] || r.Expr == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" ||
				!slices.Contains([]string{"page", "ticket"}, r.Labels["severity"]) {
				t.Errorf("%s: %+v", g.Name, r)
			}
			names[r.Alert] = true
			out = append(out, r.Expr)
		}
	}
	return out
}

var (
	notMetrics = regexp.MustCompile(`\{[^}]*\}|\[[^\]]*\]|"[^"]*"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\boffset\s+\S+`)
	word       = regexp.MustCompile(`\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(\s*\()?`)
)

// metricsIn gives the names of metrics in a PromQL expression.
func metricsIn(expr string) (names []string) {
	for _, m := range word.FindAllString(notMetrics.ReplaceAllString(expr, " "), -1) {
		if !strings.HasSuffix(m, "(") && !slices.Contains([]string{"and", "or", "unless", "bool"}, m) {
			names = append(names, m)
		}
	}
	return names
}

func TestMetricsInAnExpressionAreFound(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string][]string{
		`up{job="switchboard"} == 0`: {"up"},
		`histogram_quantile(0.99, sum by (le) (rate(a_seconds_bucket{x=~"b_c",y="z"}[5m]))) > 60`:              {"a_seconds_bucket"},
		`increase(a_total[1h]) > 0 or (a_total unless a_total offset 1h) > 2e9`:                                {"a_total", "a_total", "a_total"},
		`sum(rate(a_total{i=~"$instance"}[$__rate_interval])) / on (job) group_left (x) b and ignoring (le) c`: {"a_total", "b", "c"},
	} {
		if got := metricsIn(expr); !slices.Equal(got, want) {
			t.Errorf("%s: %q", expr, got)
		}
	}
}
