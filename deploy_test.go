package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What is deployed is what make build builds, with the Go of go.mod.
func TestDockerfileBuildsAsTheMakefileDoes(t *testing.T) {
	t.Parallel()
	dockerfile, makefile := readText(t, "deploy/Dockerfile"), readText(t, "Makefile")
	flags := firstMatch(t, makefile, `(?m)^BUILD := (.*)$`)
	cgo := firstMatch(t, makefile, `(?m)^export CGO_ENABLED := (\d)$`)
	want := "RUN CGO_ENABLED=" + cgo + " go build " + flags + " -o /out/app ."
	if !strings.Contains(dockerfile, want) {
		t.Errorf("the Dockerfile has no line %q", want)
	}
	version := firstMatch(t, readText(t, "go.mod"), `(?m)^go (\d+\.\d+)`)
	for _, file := range []string{"deploy/Dockerfile", ".gitlab-ci.yml"} {
		if image := "golang:" + version; !regexp.MustCompile(regexp.QuoteMeta(image) + `\b`).MatchString(readText(t, file)) {
			t.Errorf("%s does not use %s", file, image)
		}
	}
	for _, line := range []string{"FROM scratch", "USER 65532:65532", "VOLUME /data", `CMD ["/app", "ready"]`, `ENTRYPOINT ["/app"]`} {
		if !strings.Contains(dockerfile, line) {
			t.Errorf("the Dockerfile has no %q", line)
		}
	}
}

func TestComposeStartsOneServerWithoutRights(t *testing.T) {
	t.Parallel()
	var compose struct {
		Services map[string]struct {
			Profiles    []string
			Build       struct{ Context, Dockerfile string }
			Ports       []string
			Volumes     []string
			Environment map[string]string
			ReadOnly    bool     `yaml:"read_only"`
			CapDrop     []string `yaml:"cap_drop"`
			Grace       string   `yaml:"stop_grace_period"`
		}
		Volumes map[string]any
	}
	if err := yaml.Unmarshal([]byte(readText(t, "deploy/compose.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	s, ok := compose.Services["switchboard"]
	for name, other := range compose.Services { // what is not asked for does not start
		ok = ok && (name == "switchboard") == (len(other.Profiles) == 0)
	}
	if !ok {
		t.Fatalf("services: %v", compose.Services)
	}
	if _, err := os.Stat("deploy/" + s.Build.Context + "/" + s.Build.Dockerfile); err != nil {
		t.Error(err)
	}
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.Ports, []string{"127.0.0.1:8080:8080"}) {
		t.Errorf("more rights than it needs: %+v", s)
	}
	if _, ok := compose.Volumes["data"]; !ok || !slices.Equal(s.Volumes, []string{"data:/data"}) {
		t.Errorf("the data are in no volume: %+v", s)
	}
	known := readText(t, "docs/config.md")
	for name := range s.Environment {
		if !strings.Contains(known, "`"+name+"`") {
			t.Errorf("%s is no setting", name)
		}
	}
}

// CI runs what a person runs.
func TestPipelineRunsTheCommandOfCI(t *testing.T) {
	t.Parallel()
	var pipeline map[string]any
	if err := yaml.Unmarshal([]byte(readText(t, ".gitlab-ci.yml")), &pipeline); err != nil {
		t.Fatal(err)
	}
	job, _ := pipeline["test"].(map[string]any)
	script, _ := job["script"].([]any)
	if len(script) != 1 || script[0] != ".ci/run" {
		t.Errorf("script: %v", script)
	}
	if info, err := os.Stat(".ci/run"); err != nil || info.Mode()&0o111 == 0 {
		t.Errorf(".ci/run: %v", err)
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func firstMatch(t *testing.T, text, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no match for %s", pattern)
	}
	return m[1]
}
