// Package config reads the product's settings into plain structs.
//
// A module or a part of the platform describes its settings once, as a struct
// with tags; names in the file, the environment, the documentation and the
// sample file follow from it:
//
//	type Config struct {
//		Retention time.Duration `default:"30d" doc:"How long events are kept."`
//		MaxBody   config.Bytes  `default:"8MiB" doc:"Largest request body."`
//		Token     config.Secret `doc:"Key of the provider."`
//	}
//
//	config.Load(src, config.Section{Name: "collector", Value: &cfg})
//
// # Names
//
// The key of a field is the section's name and the field's name in snake_case
// (or its key tag), joined by a dot: collector.max_body. Its variable is
// APP_COLLECTOR_MAX_BODY, its place in the file
//
//	collector:
//	  max_body: 8MiB
//
// A field with a flag tag also has a flag of that name; every key can be given
// as --set key=value. Struct fields of struct type are nested sections.
//
// # Tags
//
//	key:"data_dir"        the last part of the key; "-" leaves the field out
//	default:"./data"      the value when nobody gives one; without it, zero
//	doc:"One sentence."   what it is for
//	flag:"data-dir"       its flag
//	secret:"true"         never shown (implied by the type Secret)
//	enum:"text,json"      the only values allowed
//
// # Values
//
// Flag beats environment, environment beats file, file beats default. A list
// is written a,b,c (or as a YAML list), a map a=1,b=2 (or as a YAML map), a
// duration 20s, 1h30m or 30d, a size 8MiB, 1GB or 512. A repeated flag adds to
// a list or map and otherwise replaces. An empty environment variable counts
// as not given.
//
// A secret can be read from a file: APP_X_FILE, or x_file in the configuration
// file, names it; white space around its content is dropped. A relative path
// is relative to the working directory.
//
// # Strictness
//
// An unknown key, an unknown APP_ variable (APP_CONFIG is known, APP_TEST_
// variables are left to tests), a repeated key or a bad value is an
// errs.Invalid error of one line that names the key and where it came from.
// All problems found are in that line; errs.FieldsOf gives them one by one.
// The value of a secret is in no error, nor is the path of a secret's file,
// because the secret itself lands there by mistake.
package config
