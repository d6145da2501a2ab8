package crm

import (
	_ "github.com/danielgtaylor/huma/v2"

	_ "bad/modules/mailing"
	_ "bad/platform/web"
)
