package telephony

import (
	"strings"
	"testing"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// Every way to ask for calls goes along an index; only what is merged or found
// by another time is sorted, a page at a time.
func TestNoQueryForCallsWalksThroughTheTable(t *testing.T) {
	t.Parallel()
	db, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()}, "telephony", migrations)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	x, now := &seal.Index{1}, time.Now()
	span := &timeRange{now, now}
	for name, c := range map[string]struct {
		q     callQuery
		index string
		sorts bool
	}{
		"all":              {callQuery{}, "telephony_call_created (generation=?)", false},
		"behind a place":   {callQuery{Before: &callPosition{1, 1}}, "telephony_call_created (generation=? AND (created_at,id)<(?,?))", false},
		"a state":          {callQuery{State: stateNew}, "telephony_call_state (generation=? AND state=?)", false},
		"active":           {callQuery{Active: true}, "telephony_call_state (generation=? AND state=?)", true},
		"a queue":          {callQuery{Queue: "900"}, "telephony_call_queue (generation=? AND queue=?)", false},
		"their number":     {callQuery{Their: x}, "telephony_call_their (generation=? AND their=?)", false},
		"our number":       {callQuery{Our: x}, "telephony_call_our (generation=? AND our=?)", false},
		"a time":           {callQuery{From: &now, To: &now}, "telephony_call_created (generation=? AND created_at>? AND created_at<?)", false},
		"one by its id":    {callQuery{Any: []callMatch{{Call: x}}}, "telephony_call_call (generation=? AND call=?)", true},
		"one by number":    {callQuery{Any: []callMatch{{ID: 7}}}, "sqlite_autoindex_telephony_call_1 (generation=? AND id=?)", false},
		"a last change":    {callQuery{Any: []callMatch{{UpdatedAt: span}}}, "telephony_call_updated (generation=? AND updated_at>? AND updated_at<?)", true},
		"a beginning":      {callQuery{Any: []callMatch{{CreatedAt: span}}}, "telephony_call_created (generation=? AND created_at>? AND created_at<?)", false},
		"one or the other": {callQuery{Any: []callMatch{{State: stateNew}, {ID: 7}}}, "telephony_call_state (generation=? AND state=?)", true},
	} {
		c.q.Limit = 50
		text, args := c.q.sql(callColumns, 1)
		var plan []string
		err := store.Each(t.Context(), db.Read(), "explain query plan "+text, args, func(scan func(...any) error) error {
			var a, b, d int
			var detail string
			err := scan(&a, &b, &d, &detail)
			plan = append(plan, detail)
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		all := strings.Join(plan, "\n")
		if !strings.Contains(all, c.index) || strings.Contains(all, "SCAN telephony_call") || strings.Contains(all, "TEMP B-TREE") && !c.sorts {
			t.Errorf("%s:\n%s", name, all)
		}
	}
}
