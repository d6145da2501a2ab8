package crm

import (
	_ "database/sql"

	_ "bad/platform/store"
)

const joinSQL = `select u.id from crm_user u join mailing_client c on c.user_id = u.id`
