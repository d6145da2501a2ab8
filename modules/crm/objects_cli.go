package crm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

// crmObjects is "app crm users" or "app crm trips".
func crmObjects(connect func() (*app.Client, error), k kind) *cobra.Command {
	all := k.collection()[1:]
	list := &cobra.Command{Use: "list", Short: "List " + all + " of the mock", Args: cobra.NoArgs,
		Example: "  app crm " + all + " list\n  app crm " + all + " list --limit 10 --json"}
	limit := list.Flags().Int("limit", 50, "most "+all+" to print; 0 for all")
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		if *limit < 0 {
			return app.Usage(errors.New("--limit is 0 or more"))
		}
		c, err := connect()
		if err != nil {
			return err
		}
		resp, err := c.Open(cmd.Context(), http.MethodGet, "/crm"+k.collection(), nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if asJSON(cmd) {
			return eachObject(resp.Body, *limit, func(raw json.RawMessage) error { return printRaw(cmd.OutOrStdout(), raw) })
		}
		row, end := objectTable(cmd.OutOrStdout(), k)
		return errors.Join(eachObject(resp.Body, *limit, row), end())
	}
	get := &cobra.Command{Use: "get ID", Short: "Show a " + k.String() + " of the mock", Args: cobra.ExactArgs(1),
		Long:    "Show a " + k.String() + " as the mock has it. What any CRM should show, and what happened: app crm trace.",
		Example: "  app crm " + all + " get 7c9e6679-7425-40de-944b-e07fc1f90ae7\n  app crm " + all + " get 7c9e6679-7425-40de-944b-e07fc1f90ae7 --json"}
	get.RunE = func(cmd *cobra.Command, args []string) error {
		var raw json.RawMessage
		return ask(cmd, connect, http.MethodGet, "/crm"+k.collection()+"/"+escape(args[0]), nil, nil, &raw, func(w io.Writer) error {
			if k == kindUser {
				var u userAnswer
				if err := json.Unmarshal(raw, &u); err != nil {
					return fmt.Errorf("read a user: %w", err)
				}
				u.print(w)
				return nil
			}
			var t tripAnswer
			if err := json.Unmarshal(raw, &t); err != nil {
				return fmt.Errorf("read a trip: %w", err)
			}
			t.print(w)
			return nil
		})
	}
	return group(all, "Look at "+all+" of the mock", list, get)
}

// eachObject goes through a list as it comes.
func eachObject(r io.Reader, limit int, fn func(json.RawMessage) error) error {
	in := json.NewDecoder(bufio.NewReader(r))
	if start, err := in.Token(); err != nil || start != json.Delim('[') {
		return errors.New("the server's answer is no list")
	}
	for n := 0; in.More(); n++ {
		if limit > 0 && n == limit {
			return nil
		}
		var raw json.RawMessage
		if err := in.Decode(&raw); err != nil {
			return fmt.Errorf("the list broke off: %w", err)
		}
		if err := fn(raw); err != nil {
			return err
		}
	}
	if _, err := in.Token(); err != nil {
		return fmt.Errorf("the list broke off: %w", err)
	}
	return nil
}

// userAnswer and tripAnswer are objects as the CRM gives them.
type userAnswer crmUser

type tripAnswer crmTrip

// known is a text that may not be there.
func known(text *string) string {
	if text == nil {
		return ""
	}
	return app.Printable(*text)
}

func (u *userAnswer) print(w io.Writer) {
	namedLine(w, "user", app.Printable(u.ID))
	namedLine(w, "last name", app.Printable(u.LastName))
	namedLine(w, "first name", known(u.FirstName))
	namedLine(w, "e-mail", app.Printable(u.Email))
	if u.LastTripID != nil {
		namedLine(w, "last trip", fmt.Sprintf("%s, %s, %s", known(u.LastTripID), app.OrDash(known(u.LastTripType)), app.Printable(u.LastTripDate)))
	}
}

func (t *tripAnswer) print(w io.Writer) {
	namedLine(w, "trip", app.Printable(t.ID))
	namedLine(w, "user", app.Printable(t.UserID))
	namedLine(w, "type", app.Printable(t.Type))
	namedLine(w, "from", known(t.From))
	namedLine(w, "to", known(t.To))
	namedLine(w, "price", fmt.Sprint(t.Price))
	namedLine(w, "begins", app.Printable(t.StartDate))
	namedLine(w, "ends", known(t.EndDate))
}

// objectTable prints objects as lines for people.
func objectTable(w io.Writer, k kind) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if k == kindUser {
		_, _ = fmt.Fprintln(table, "USER\tLAST NAME\tFIRST NAME\tE-MAIL\tLAST TRIP\tTYPE\tDATE")
		return func(raw json.RawMessage) error {
			var u crmUser
			if err := json.Unmarshal(raw, &u); err != nil {
				return fmt.Errorf("read a user: %w", err)
			}
			date := u.LastTripDate
			if u.LastTripID == nil {
				date = ""
			}
			_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", app.Printable(u.ID), app.OrDash(u.LastName), app.OrDash(known(u.FirstName)), app.OrDash(u.Email), app.OrDash(known(u.LastTripID)), app.OrDash(known(u.LastTripType)), app.OrDash(date))
			return err
		}, table.Flush
	}
	_, _ = fmt.Fprintln(table, "TRIP\tUSER\tTYPE\tBEGINS\tENDS\tPRICE\tFROM\tTO")
	return func(raw json.RawMessage) error {
		var t crmTrip
		if err := json.Unmarshal(raw, &t); err != nil {
			return fmt.Errorf("read a trip: %w", err)
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%v\t%s\t%s\n", app.Printable(t.ID), app.OrDash(t.UserID), app.OrDash(t.Type), app.OrDash(t.StartDate), app.OrDash(known(t.EndDate)), t.Price, app.OrDash(known(t.From)), app.OrDash(known(t.To)))
		return err
	}, table.Flush
}
