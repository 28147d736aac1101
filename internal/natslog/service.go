package natslog

import (
	"strings"

	"github.com/nats-io/nats.go/micro"
)

// healthSubject is where a service answers whether it is well. It is below the subjects
// that every service of NATS has.
const healthSubject = "$SRV.HEALTH.chat"

// Serve implements Engine. A version that is no semantic version is 0.0.0.
func (c *connection) Serve(name, version string, metadata map[string]string, stats func() any) error {
	config := micro.Config{
		Name:         name,
		Version:      strings.TrimPrefix(version, "v"),
		Description:  "a chat server",
		Metadata:     metadata,
		StatsHandler: func(*micro.Endpoint) any { return stats() },
		Endpoint: &micro.EndpointConfig{
			Subject: healthSubject,
			Handler: micro.HandlerFunc(func(r micro.Request) { r.Respond([]byte("ok")) }), // an error says that nobody waits for it
		},
	}
	_, err := micro.AddService(c.nc, config)
	if err != nil {
		config.Version = "0.0.0"
		_, err = micro.AddService(c.nc, config)
	}
	return err
}
