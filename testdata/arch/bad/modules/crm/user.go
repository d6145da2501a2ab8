package crm

import (
	_ "net/http"

	_ "github.com/google/uuid"

	_ "bad/platform/errs"
	_ "bad/platform/store"
)

const subjectUser = "user.made"
