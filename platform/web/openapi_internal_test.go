package web

import "testing"

func TestSchemaNamesCarryTheModule(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ pkg, name, want string }{
		{"switchboard/modules/collector", "Event", "CollectorEvent"},
		{"switchboard/modules/gateway", "Event", "GatewayEvent"},
		{"switchboard/modules/collector", "CollectorEvent", "CollectorEvent"},
		{"switchboard/modules/crm", "Crmish", "CrmCrmish"},
		{"switchboard/modules/telephony/telephonyapi", "Call", "TelephonyApiCall"},
		{"switchboard/modules/gateway/internal/engine", "Packet", "GatewayEnginePacket"},
		{"switchboard/platform/auth", "Key", "AuthKey"},
		{"switchboard/platform/errs", "Field", "Field"},
		{"switchboard/platform/web", "Readiness", "Readiness"},
		{"switchboard/platform/web", "Page[switchboard/modules/collector.Event]", "CollectorEventPage"},
		{"switchboard/platform/web", "Page[[]*switchboard/modules/collector.Event]", "CollectorEventListPage"},
		{"switchboard/platform/web", "Page[switchboard/modules/crm.Pair[string,switchboard/modules/collector.Event]]", "StringCollectorEventCrmPairPage"},
		{"time", "Month", "Month"},
	} {
		if got := schemaName(c.pkg, c.name); got != c.want {
			t.Errorf("schemaName(%q, %q) = %q, want %q", c.pkg, c.name, got, c.want)
		}
	}
}
