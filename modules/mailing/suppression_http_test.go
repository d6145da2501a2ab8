package mailing

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"switchboard/platform/apptest"
	"switchboard/platform/seal"
)

type suppressionPage struct {
	Items []Suppression `json:"items"`
	Next  *string       `json:"next"`
}

// suppressedNumbers goes through the list.
func suppressedNumbers(t *testing.T, p *apptest.Product, limit int) (out []string) {
	t.Helper()
	for path := fmt.Sprintf("/mailing/suppressions?limit=%d", limit); ; {
		var page suppressionPage
		if status := p.Call(http.MethodGet, path, nil, &page); status != http.StatusOK || len(page.Items) > limit {
			t.Fatalf("%d, %d items", status, len(page.Items))
		}
		for _, s := range page.Items {
			number := "?"
			if s.PhoneNumber != nil {
				number = *s.PhoneNumber
			}
			out = append(out, number+" "+s.Reason)
		}
		if page.Next == nil {
			return out
		}
		path = fmt.Sprintf("/mailing/suppressions?limit=%d&cursor=%s", limit, *page.Next)
	}
}

func TestNumbersAreSuppressedOnceAndFreedAgain(t *testing.T) {
	t.Parallel()
	onDesks(t, func(t *testing.T, d *journalDesk, p *apptest.Product) {
		clientID := d.client(t, "79160000001")
		var first, again Suppression
		if status := p.Call(http.MethodPost, "/mailing/suppressions", `{"phone_number":"+7 (916) 000-00-01","reason":"complaint"}`, &first); status != http.StatusCreated {
			t.Fatalf("%d", status)
		}
		if status := p.Call(http.MethodPost, "/mailing/suppressions", `{"phone_number":"79160000001"}`, &again); status != http.StatusOK {
			t.Errorf("again: %d", status)
		}
		if *first.PhoneNumber != "79160000001" || first.Reason != "complaint" || *again.PhoneNumber != *first.PhoneNumber || again.Reason != first.Reason || again.CreatedAt != first.CreatedAt {
			t.Errorf("%+v, then %+v", first, again)
		}
		want := []string{"79160000001 complaint"}
		for i := 2; i < 7; i++ {
			number := fmt.Sprintf("7916000000%d", i)
			if status := p.Call(http.MethodPost, "/mailing/suppressions", map[string]string{"phone_number": number}, nil); status != http.StatusCreated {
				t.Errorf("%d: %d", i, status)
			}
			want = slices.Insert(want, 0, number+" manual")
		}
		for _, limit := range []int{1, 2, 1000} {
			if got := suppressedNumbers(t, p, limit); !slices.Equal(got, want) {
				t.Errorf("by %d: %q", limit, got)
			}
		}
		if status := p.Call(http.MethodDelete, "/mailing/suppressions/79160000001", nil, nil); status != http.StatusNoContent {
			t.Errorf("remove: %d", status)
		}
		if status := p.Call(http.MethodDelete, "/mailing/suppressions/79160000001", nil, nil); status != http.StatusNotFound {
			t.Errorf("remove again: %d", status)
		}
		if got := suppressedNumbers(t, p, 50); !slices.Equal(got, want[:5]) {
			t.Errorf("after: %q", got)
		}
		got := logged(t, p, fmt.Sprintf("/mailing/clients/%d/log", clientID), 2)
		if len(got) != 2 || got[0][:19] != "suppression.removed" || got[1][:17] != "suppression.added" {
			t.Errorf("%q", got)
		}
		if found := apptest.Hits(t, p.Dir, p.Log.String(), "9160000002", "9160000001"); len(found) > 0 {
			t.Errorf("numbers in the clear: %q", found)
		}
	}, apptest.Now(ticks()))
}

func TestSuppressionsThatCannotBe(t *testing.T) {
	t.Parallel()
	d := &journalDesk{}
	p := apptest.Start(t, modulesOf(d))
	for _, body := range []string{
		`{}`, `{"phone_number":""}`, `{"phone_number":"89160000001"}`, `{"phone_number":"7916000000"}`, `{"phone_number":"79160000001","extra":1}`, `{"phone_number":79160000001}`,
		`{"phone_number":"79160000001","reason":"Ivan Petrov"}`, `{"phone_number":"79160000001","reason":"called from 79161234567"}`,
	} {
		if status := p.Call(http.MethodPost, "/mailing/suppressions", body, nil); status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", body, status)
		}
	}
	for path, want := range map[string]int{"/mailing/suppressions/123": 422, "/mailing/suppressions/79160000009": 404} {
		if status := p.Call(http.MethodDelete, path, nil, nil); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status := p.Call(http.MethodGet, "/mailing/suppressions?cursor=x", nil, nil); status != 422 {
		t.Errorf("a wrong cursor: %d", status)
	}
	reader := p.NewKey(map[string]any{"scopes": []string{"mailing:read"}})
	if status := p.CallAs(reader, http.MethodPost, "/mailing/suppressions", `{"phone_number":"79160000001"}`, nil); status != http.StatusForbidden {
		t.Errorf("a reader: %d", status)
	}
	if got := suppressedNumbers(t, p, 50); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// An erased person stays suppressed, though nobody can tell any more who it is.
func TestSuppressionOutlivesAnErasure(t *testing.T) {
	t.Parallel()
	onDesks(t, func(t *testing.T, d *journalDesk, p *apptest.Product) {
		const number = "79160000001"
		if status := p.Call(http.MethodPost, "/mailing/suppressions", map[string]string{"phone_number": number}, nil); status != http.StatusCreated {
			t.Fatal(status)
		}
		alias, _ := seal.Phone(number)
		subjects, err := d.p.Seal.Find(t.Context(), alias)
		if err != nil || len(subjects) != 1 {
			t.Fatalf("%v %v", subjects, err)
		}
		if err := d.p.Seal.Erase(t.Context(), subjects[0]); err != nil {
			t.Fatal(err)
		}
		if got := suppressedNumbers(t, p, 50); !slices.Equal(got, []string{"? manual"}) {
			t.Errorf("%q", got)
		}
		if status := p.Call(http.MethodPost, "/mailing/suppressions", map[string]string{"phone_number": number}, nil); status != http.StatusOK {
			t.Errorf("again: %d", status)
		}
		if status := p.Call(http.MethodDelete, "/mailing/suppressions/"+number, nil, nil); status != http.StatusNoContent {
			t.Errorf("remove: %d", status)
		}
		if status := p.Call(http.MethodPost, "/mailing/suppressions", map[string]string{"phone_number": number}, nil); status != http.StatusCreated {
			t.Errorf("of one who is erased: %d", status)
		}
	})
}

func TestSuppressedGivesThoseAskedForAlone(t *testing.T) {
	t.Parallel()
	onDesks(t, func(t *testing.T, d *journalDesk, p *apptest.Product) {
		var phones []seal.Index
		for i := range 600 {
			alias, _ := seal.Phone(fmt.Sprintf("7916%07d", i))
			phones = append(phones, d.p.Seal.Index(alias.Kind, alias.Value))
		}
		for _, i := range []int{0, 299, 599} {
			if _, _, err := d.suppressions.add(t.Context(), fmt.Sprintf("7916%07d", i), "", ""); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range []int{0, 1, 3, 300, 599, 600} {
			got, err := d.suppressions.store.suppressed(t.Context(), d.p.DB.Read(), phones[:n])
			if err != nil {
				t.Fatal(err)
			}
			for i, phone := range phones {
				if want := i < n && (i == 0 || i == 299 || i == 599); got[phone] != want {
					t.Errorf("%d of %d: %v", i, n, got[phone])
				}
			}
		}
	})
}
