package collectorclient_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"switchboard/modules/collector/collectorclient"
)

func Example() {
	collector := newCollector()
	server := httptest.NewServer(collector) // yours is the product
	defer server.Close()

	client, err := collectorclient.New(collectorclient.Options{URL: server.URL, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	session := "e2085be5-9137-4e4e-80b5-f1ffddc25423"
	for _, path := range []string{"/", "/about"} {
		err := client.Track(session, "page interaction", "pageview", map[string]any{"host": "example.com", "path": path})
		if err != nil {
			log.Print(err) // queue full: decide what to do without it
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := client.Close(ctx); err != nil {
		log.Print(err)
	}
	for _, e := range collector.stored {
		fmt.Println(e.Category, e.Name, string(e.Data))
	}
	// Output:
	// page interaction pageview {"host":"example.com","path":"/"}
	// page interaction pageview {"host":"example.com","path":"/about"}
}

// Learn what the collector will never take, and why.
func ExampleOptions_rejected() {
	server := httptest.NewServer(newCollector())
	defer server.Close()

	client, err := collectorclient.New(collectorclient.Options{
		URL: server.URL, Key: key,
		OnError: func(err error) {
			var rejected *collectorclient.RejectedError
			if errors.As(err, &rejected) {
				for _, r := range rejected.Rejections {
					fmt.Println(r.ID, r.Errors)
				}
				return
			}
			log.Print(err) // an attempt failed; the next one follows by itself
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	_ = client.Track("s1", "page interaction", "pageview", map[string]any{"path": "/"})
	_ = client.Track("s1", "page interaction", "pageview", map[string]any{"bad": 1}, collectorclient.WithID("order-7"))
	if err := client.Close(context.Background()); err != nil {
		log.Print(err)
	}
	fmt.Printf("%+v\n", client.Stats())
	// Output:
	// order-7 [{data.bad unexpected property}]
	// {Queued:0 Accepted:1 Rejected:1 Refused:0}
}

// Keep the queue on disk while the collector is away.
func ExampleOptions_spool() {
	dir, err := os.MkdirTemp("", "spool")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	options := collectorclient.Options{
		URL: "http://127.0.0.1:1", Key: key, // nobody listens here
		SpoolDir: dir, SpoolSync: collectorclient.SyncAlways,
		OnError: func(error) {},
	}
	client, err := collectorclient.New(options)
	if err != nil {
		log.Fatal(err)
	}
	_ = client.Track("s1", "party", "invited", map[string]any{"guests": 3})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	var unsent *collectorclient.UnsentError
	if errors.As(client.Close(ctx), &unsent) {
		fmt.Println("unsent:", unsent.Count, "in the spool:", unsent.Spooled)
	}

	// The next start of the program, with the collector back.
	server := httptest.NewServer(http.Handler(newCollector()))
	defer server.Close()
	options.URL = server.URL
	if client, err = collectorclient.New(options); err != nil {
		log.Fatal(err)
	}
	if err := client.Close(context.Background()); err != nil {
		log.Print(err)
	}
	fmt.Println("accepted:", client.Stats().Accepted)
	// Output:
	// unsent: 1 in the spool: true
	// accepted: 1
}

// Have what was tracked taken before going on, as at the end of a request.
func ExampleClient_Flush() {
	server := httptest.NewServer(newCollector())
	defer server.Close()
	client, err := collectorclient.New(collectorclient.Options{URL: server.URL, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close(context.Background()) }()

	_ = client.Track("s1", "orders", "paid", map[string]any{"order": 7}, collectorclient.WithUser("u1"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	fmt.Println(client.Flush(ctx))
	// Output: <nil>
}
