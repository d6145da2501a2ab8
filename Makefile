.DEFAULT_GOAL := help
export CGO_ENABLED := 0
BUILD := -trimpath -ldflags "-s -w"

help: ## show this
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

run: build ## build and start the server on ./data
	./app serve

build: ## build the one static binary, ./app
	go build $(BUILD) -o app .

prepare: ## install what the tests need (PostgreSQL, Chromium, Node)
	@.ci/prepare

test: prepare ## all tests, with the race detector
	go vet ./...
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	CGO_ENABLED=1 go test -race -shuffle=on -timeout=18m ./...
	cd platform/eventlog/mongotest && go vet ./... && CGO_ENABLED=1 go test -race -shuffle=on -timeout=10m ./...

update: ## rewrite the generated texts: OpenAPI, settings, help
	go test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -run Golden -update

bench: ## measure, each figure beside the raw limit of the same run
	go test -run='^$$' -bench=. -benchtime=1x -timeout=60m ./bench

powercut: ## ten rounds of load and power cut on a loop-mounted disk (root)
	POWERCUT_ROUNDS=10 go test -run=PowerCut -count=1 -v -timeout=30m .

fuzz: ## fuzz each parser of outside input for a minute
	@for t in $$(grep -rlE '^func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$t/*_test.go | cut -c6-); do \
	    echo "$$t $$f"; go test $$t -run='^$$' -fuzz="^$$f\$$" -fuzztime=60s || exit 1; \
	  done; done

clean: ## remove what was built
	rm -rf app build

.PHONY: help run build prepare test update bench powercut fuzz clean
