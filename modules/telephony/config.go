package telephony

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"switchboard/platform/config"
	"switchboard/platform/eventlog"
)

// Config holds the settings of telephony.
type Config struct {
	ProviderURL      string          `key:"provider_url" doc:"Address of the phone platform's API, below which /actions lies. Without it no call is delegated."`
	ProviderUser     string          `key:"provider_user" doc:"User for the platform's HTTP Basic authentication."`
	ProviderPassword config.Secret   `key:"provider_password" doc:"Its password."`
	ProviderTimeout  time.Duration   `key:"provider_timeout" default:"2s" doc:"How long the platform may take to answer one request."`
	DelegateWithin   time.Duration   `default:"10s" doc:"How long after it stood by a call may be delegated; the platform then handles it by itself."`
	NewQueue         string          `default:"900" doc:"Where calls of numbers go that have never stood by before."`
	ReturningQueue   string          `default:"901" doc:"Where calls of known numbers go."`
	Rules            []string        `doc:"Rules that come before these two, the first that fits counts: conditions, an arrow and a destination, as in 'our=0800000000 days=mon-fri+sun hours=18:00-08:00 -> 950'. Conditions are our=<number>, customer=new|returning, days=, hours= and known=mailing|crm."`
	TimeZone         string          `default:"UTC" doc:"Time zone of days and hours in rules, such as America/Sao_Paulo."`
	CountryCode      string          `doc:"Put before numbers that come without one, such as 55, so that all modules know a number by one form."`
	ServiceLevel     time.Duration   `default:"20s" doc:"The longest wait of a call that counts as answered in time. Past calls are counted anew by 'app calls rebuild'."`
	Recordings       string          `default:"link" enum:"link,fetch" doc:"link keeps where the platform has a recording; fetch also gets it and keeps it, sealed."`
	RecordingMax     config.Bytes    `default:"64MiB" doc:"Largest recording that is fetched."`
	BoardListen      string          `key:"board_listen" doc:"Address of a second listener for boards that can show no credential, such as 127.0.0.1:4000. Off if empty. Everybody who reaches it sees all calls."`
	BoardPublic      bool            `default:"false" doc:"Let board_listen be reachable from other machines."`
	BoardOrigins     []string        `doc:"Origins, beside those of this machine, whose pages may connect to board_listen."`
	MaxBoards        int             `default:"1000" doc:"Most WebSockets open at this instance."`
	Log              eventlog.Config `doc:"Where delegations, dialled numbers and fetched recordings are logged."`
}

// Validate explains what makes no sense.
func (c *Config) Validate() error {
	switch u, err := url.Parse(c.ProviderURL); {
	case c.ProviderURL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == ""):
		return fmt.Errorf("telephony.provider_url is not an http or https address")
	case c.ProviderURL != "" && (u.User != nil || u.RawQuery != "" || u.Fragment != ""):
		return fmt.Errorf("telephony.provider_url has a user, a query or a fragment; the user goes into telephony.provider_user")
	case c.ProviderTimeout < 10*time.Millisecond:
		return fmt.Errorf("telephony.provider_timeout is below 10ms")
	case c.DelegateWithin < 100*time.Millisecond || c.DelegateWithin > 10*time.Minute:
		return fmt.Errorf("telephony.delegate_within is not between 100ms and 10m")
	case c.NewQueue == "" || c.ReturningQueue == "":
		return fmt.Errorf("telephony.new_queue and telephony.returning_queue cannot be empty")
	case checkDestination(c.NewQueue) != nil || checkDestination(c.ReturningQueue) != nil:
		return fmt.Errorf("telephony.new_queue and telephony.returning_queue: want up to 64 characters without blanks")
	case c.ServiceLevel < 0:
		return fmt.Errorf("telephony.service_level is negative")
	case c.RecordingMax < 1<<10 || c.RecordingMax > 1<<30:
		return fmt.Errorf("telephony.recording_max is not between 1KiB and 1GiB")
	case c.MaxBoards < 1:
		return fmt.Errorf("telephony.max_boards is below 1")
	}
	if err := c.checkBoardListen(); err != nil {
		return err
	}
	if code := c.CountryCode; len(code) > 4 || strings.HasPrefix(code, "0") || strings.Trim(code, "0123456789") != "" {
		return fmt.Errorf("telephony.country_code is not one to four digits, the first not 0")
	}
	if _, err := parseRules(c.Rules, c.TimeZone); err != nil {
		return fmt.Errorf("telephony.rules: %w", err)
	}
	if err := c.Log.Validate(); err != nil {
		return fmt.Errorf("telephony.%w", err)
	}
	return nil
}

// checkBoardListen lets boards without a credential listen on this machine
// alone, unless more is asked for.
func (c *Config) checkBoardListen() error {
	if c.BoardListen == "" {
		return nil
	}
	u, err := url.Parse("//" + c.BoardListen)
	if err != nil || u.Host != c.BoardListen || u.Port() == "" || len(u.Port()) > 5 {
		return fmt.Errorf("telephony.board_listen: want host:port, such as 127.0.0.1:4000")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if !c.BoardPublic && !strings.EqualFold(u.Hostname(), "localhost") && (err != nil || !ip.Unmap().IsLoopback()) {
		return fmt.Errorf("telephony.board_listen can be reached from other machines, and whoever reaches it sees all calls; telephony.board_public allows that")
	}
	return nil
}
