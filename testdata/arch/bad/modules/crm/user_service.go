package crm

import (
	_ "github.com/danielgtaylor/huma/v2"
	_ "github.com/twmb/franz-go/pkg/kfake"

	_ "bad/modules/mailing"
	_ "bad/platform/web"
)
