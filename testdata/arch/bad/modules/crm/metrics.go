package crm

import "github.com/prometheus/client_golang/prometheus"

var users = prometheus.NewCounter(prometheus.CounterOpts{Name: "users_total", Help: "Users."})
