package crm

// kind is what an object of the CRM is.
type kind int

const (
	kindUser kind = iota
	kindTrip
)

func (k kind) String() string { return [...]string{"user", "trip"}[k] }

// collection is the path of all objects of a kind.
func (k kind) collection() string { return [...]string{"/users", "/trips"}[k] }

// crmUser is a user as the CRM shows it.
type crmUser struct {
	ID           string  `json:"Id" pii:"id"`
	LastName     string  `json:"LastName" pii:"content"`
	FirstName    *string `json:"FirstName" pii:"content"`
	Email        string  `json:"Email" pii:"content"`
	LastTripType *string `json:"LastTripType"`
	LastTripID   *string `json:"LastTripId"`
	LastTripDate string  `json:"LastTripDate"`
}

// crmTrip is a trip as the CRM shows it.
type crmTrip struct {
	ID        string  `json:"Id"`
	UserID    string  `json:"UserId" pii:"id"`
	From      *string `json:"From" pii:"content"`
	To        *string `json:"To" pii:"content"`
	Price     float64 `json:"Price"`
	StartDate string  `json:"StartDate"`
	EndDate   *string `json:"EndDate"`
	Type      string  `json:"Type"`
}

// tripTypes are the names of the platform's enumeration, in its order. The CRM
// gets the right spelling of the first.
var tripTypes = [...]string{"Unknown", "Scooter", "Rental", "RideHailing"}

// noTripDate stands where the CRM wants the date of a last trip and there is
// none: the zero of its own platform's dates.
const noTripDate = "0001-01-01T00:00:00Z"

// lastTrip is the trip that a user shows.
type lastTrip struct {
	id, kind, date string
}

// user is what the CRM should show of a user. What it takes no null for is
// empty: nothing is invented.
func (e *userEvent) user(id string, last *lastTrip) crmUser {
	u := crmUser{ID: id, LastName: orEmpty(e.LastName), FirstName: e.FirstName, Email: orEmpty(e.Email), LastTripDate: noTripDate}
	if last != nil {
		u.LastTripID, u.LastTripType, u.LastTripDate = &last.id, &last.kind, last.date
	}
	return u
}

// trip is what the CRM should show of a booking; user is the id that its user
// has there, "" without one.
func (e *bookingEvent) trip(id, user string) crmTrip {
	return crmTrip{ID: id, UserID: user, From: e.From, To: e.To, Price: e.Price, StartDate: e.StartDate, EndDate: e.EndDate, Type: tripTypes[e.Type]}
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
