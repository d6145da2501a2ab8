package mailing

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// crowd writes clients with every pairing of operators and tags.
func crowd(t *testing.T, db *store.DB, n, codes, tags int) []audienceRow {
	t.Helper()
	rows := make([]audienceRow, n)
	for i := range rows {
		rows[i] = audienceRow{ID: int64(i + 1), Phone: seal.Index{byte(i >> 8), byte(i), 1}, Subject: seal.Subject{1}, Sealed: []byte{1}, OperatorCode: fmt.Sprint(900 + i%codes),
			Tag: fmt.Sprint("tag", i/codes%tags), Timezone: "UTC", CreatedAt: 1, UpdatedAt: 1}
	}
	if err := db.Tx(t.Context(), func(tx store.Querier) error { return (&clientStore{db}).insert(t.Context(), tx, rows) }); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestTheAudienceIsWhatTheFilterPicks(t *testing.T) {
	t.Parallel()
	storetest.Each(t, os.DirFS("."), func(t *testing.T, db *store.DB) {
		s := &clientStore{db}
		if id, err := s.highest(t.Context(), db.Read()); err != nil || id != 0 {
			t.Errorf("of none: %d %v", id, err)
		}
		all := crowd(t, db, 1200, 40, 20)
		if id, err := s.highest(t.Context(), db.Read()); err != nil || id != 1200 {
			t.Errorf("%d %v", id, err)
		}
		codes, tags := make([]string, 100), make([]string, 100)
		for i := range 100 {
			codes[i], tags[i] = fmt.Sprint(900+i), fmt.Sprint("tag", i)
		}
		for _, f := range []filter{{}, {Tag: tags[:1]}, {OperatorCode: codes[:1]}, {Tag: tags[:3]}, {OperatorCode: codes[3:9]}, {Tag: tags[:1], OperatorCode: codes[:1]},
			{Tag: tags[2:5], OperatorCode: codes[:7]}, {Tag: tags, OperatorCode: codes}, {Tag: tags}, {Tag: tags[50:]}, {Tag: tags[:20], OperatorCode: codes[30:50]}} {
			var want []int64
			for _, r := range all {
				if f.matches(&client{OperatorCode: r.OperatorCode, Tag: r.Tag}) {
					want = append(want, r.ID)
				}
			}
			for _, limit := range []int{7, 1000} {
				if len(f.OperatorCode)*len(f.Tag) > 500 {
					limit = max(limit, 400) // each page looks at as many ranges
				}
				var got []int64
				for after := int64(0); ; after = got[len(got)-1] {
					rows, err := s.audience(t.Context(), db.Read(), f, after, limit)
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range rows {
						got = append(got, r.ID)
					}
					if len(rows) < limit {
						break
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%d codes, %d tags by %d: %d clients, want %d", len(f.OperatorCode), len(f.Tag), limit, len(got), len(want))
				}
			}
		}
	})
}

func TestTheAudienceIsFoundAlongAnIndex(t *testing.T) {
	t.Parallel()
	db, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()}, "mailing", os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	crowd(t, db, 100, 10, 5)
	for _, f := range []filter{{}, {Tag: []string{"tag1"}}, {OperatorCode: []string{"901"}}, {Tag: []string{"tag1", "tag2"}}, {OperatorCode: []string{"901", "902"}},
		{Tag: []string{"tag1"}, OperatorCode: []string{"901"}}, {Tag: []string{"tag1", "tag2"}, OperatorCode: []string{"901", "902"}}} {
		query, args := audienceQuery(clientColumns, f, 5, 10)
		var plan []string
		err := store.Each(t.Context(), db.Read(), `explain query plan `+query, args, func(scan func(...any) error) error {
			var id, parent, unused int
			var step string
			err := scan(&id, &parent, &unused, &step)
			plan = append(plan, step)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(plan, "\n")
		scanned := slices.ContainsFunc(plan, func(step string) bool { return strings.HasPrefix(step, "SCAN mailing_client") })
		wrong := scanned || len(f.Tag)+len(f.OperatorCode) <= 1 && strings.Contains(text, "TEMP B-TREE")
		for _, step := range plan {
			// Each range begins behind the last client of the page before.
			if strings.HasPrefix(step, "SEARCH mailing_client") && !strings.Contains(step, ">?") && !strings.HasSuffix(step, "PRIMARY KEY (rowid=?)") && !strings.HasSuffix(step, "(id=?)") {
				wrong = true
			}
		}
		if wrong {
			t.Errorf("%+v:\n%s", f, text)
		}
	}
}
