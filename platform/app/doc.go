// Package app turns a list of modules into the product: it reads the settings,
// opens the platform, starts the chosen modules, serves HTTP, stops in order,
// and holds the root command with what is common to all modules.
//
// A module is data (Module); a module at work is a Service. The order of a
// start is: settings, data directory lock, databases, bus, keys, credentials,
// modules, listener. A stop goes the other way round.
package app
