package natslog

import (
	"regexp"

	"github.com/nats-io/nats.go/micro"
)

// healthSubject is where a service answers whether it is well. It is below the subjects
// that every service of NATS has.
const healthSubject = "$SRV.HEALTH.chat"

// semanticVersion is what NATS takes for the version of a service.
var semanticVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)

// Serve implements Engine.
func (c *connection) Serve(name, version string, metadata map[string]string, stats func() any) error {
	if !semanticVersion.MatchString(version) {
		version = "0.0.0"
	}
	_, err := micro.AddService(c.nc, micro.Config{
		Name:         name,
		Version:      version,
		Description:  "a chat server",
		Metadata:     metadata,
		StatsHandler: func(*micro.Endpoint) any { return stats() },
		Endpoint: &micro.EndpointConfig{
			Subject: healthSubject,
			Handler: micro.HandlerFunc(func(r micro.Request) { r.Respond([]byte("ok")) }), // an error says that nobody waits for it
		},
	})
	return err
}
