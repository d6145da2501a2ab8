package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"switchboard/platform/errs"
)

// Client calls a running server on behalf of a command.
type Client struct {
	// URL of the server, without a slash at its end.
	URL string
	// Key is sent with every request.
	Key  string
	HTTP *http.Client
}

// ClientFlags adds --server, --key and --data-dir to a command. The returned
// function finds the server and the key: by flag, or through the data directory
// of a server on this machine.
func ClientFlags(cmd *cobra.Command) func() (*Client, error) {
	find := serverFlags(cmd)
	key := cmd.PersistentFlags().String("key", "", "API key; admin.key of the data directory if absent")
	return func() (*Client, error) {
		c := &Client{Key: *key, HTTP: http.DefaultClient}
		var err error
		if c.URL, err = find(); err != nil {
			return nil, err
		}
		if c.Key == "" {
			text, err := os.ReadFile(filepath.Join(dataDir(cmd), fileAdminKey))
			if err != nil {
				return nil, errs.New(errs.Denied, "no key: give --key, or --data-dir with its admin.key")
			}
			c.Key = strings.TrimSpace(string(text))
		}
		return c, nil
	}
}

// serverFlags adds --server and --data-dir to a command. The returned function
// gives the URL of the server, without a slash at its end.
func serverFlags(cmd *cobra.Command) func() (string, error) {
	server := cmd.PersistentFlags().String("server", "", "URL of the server; found through the data directory if absent")
	cmd.PersistentFlags().String("data-dir", "", "data directory of a server on this machine (default \"./data\")")
	return func() (string, error) {
		url := *server
		if url == "" {
			dir := dataDir(cmd)
			text, err := os.ReadFile(filepath.Join(dir, fileServer))
			if err != nil {
				return "", errs.New(errs.Unavailable, "no server runs on the data directory %s; start one with \"app serve\" or name one with --server", dir)
			}
			url = string(text)
		}
		return strings.TrimSuffix(strings.TrimSpace(url), "/"), nil
	}
}

// dataDir is the data directory of a command: its flag --data-dir, else
// APP_DATA_DIR, else the default.
func dataDir(cmd *cobra.Command) string {
	f := cmd.Flags().Lookup("data-dir")
	if f == nil {
		f = cmd.PersistentFlags().Lookup("data-dir")
	}
	for _, dir := range []string{f.Value.String(), os.Getenv("APP_DATA_DIR")} {
		if dir != "" {
			return dir
		}
	}
	return "./data"
}

// Do calls a route: it sends in as JSON unless it is nil, and reads the answer
// into out unless that is nil. An answer of 400 or more is an error with the
// problem's text.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.Open(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if raw, ok := out.(*json.RawMessage); ok {
		*raw, err = io.ReadAll(resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer of %s %s: %w", method, path, err)
	}
	return nil
}

// Open calls a route and gives the answer to be read; the caller closes its
// body. An answer of 400 or more is an error with the problem's text.
func (c *Client) Open(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	target := c.URL + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Key)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the query, which may be personal
		}
		return nil, fmt.Errorf("%s %s%s: %w", method, c.URL, path, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(resp)
}

// answerError reads a problem.
func answerError(resp *http.Response) error {
	var p struct {
		Title  string       `json:"title"`
		Detail string       `json:"detail"`
		Errors []errs.Field `json:"errors"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || json.Unmarshal(text, &p) != nil {
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	line := p.Detail
	if line == "" {
		line = p.Title
	}
	for _, f := range p.Errors {
		line += "; " + f.Location + " " + f.Message
	}
	return fmt.Errorf("%s (%d)", line, resp.StatusCode)
}
