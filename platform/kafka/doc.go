// Package kafka opens connections to the Kafka cluster of the configuration:
// its brokers, TLS and SASL. What is read and written there is the business of
// those who open one; without brokers nobody does.
package kafka
