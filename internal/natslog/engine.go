package natslog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// An Engine is what is used of a connection to NATS. Open makes a real one; tests
// simulate it.
type Engine interface {
	// Request sends a message and returns the answer.
	Request(ctx context.Context, m *Message) (*Message, error)

	// RequestAll sends a message and hands over the answers, until answer returns false. There
	// are at most maxAnswers.
	RequestAll(ctx context.Context, m *Message, answer func(*Message) bool) error

	// Publish sends something to all who have subscribed.
	Publish(subject string, data []byte) error

	// Subscribe calls handle for each message that is published on a subject, in order, one
	// at a time. The last token of the subject may be >, which stands for any.
	Subscribe(subject string, handle func(*Message)) error

	// Serve registers the connection as a service of NATS.
	Serve(name, version string, metadata map[string]string, stats func() any) error

	IsConnected() bool
	Reconnect() // to another server, if there is one
	Close()
}

// A Message is one of NATS.
type Message struct {
	Subject string
	Header  map[string][]string
	Data    []byte
}

// header returns a field of the header, "" if it is missing. Of several it is the last: what
// the stream adds comes after what the publisher wrote.
func (m *Message) header(name string) string {
	values := m.Header[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

const (
	// pingInterval is how often a connection is tried. Two pings without an answer end it:
	// a frozen server keeps its connections open.
	pingInterval = 2 * time.Second

	// dialTimeout is how long connecting to a server may take.
	dialTimeout = 2 * time.Second

	// writeTimeout is how long a write to a server may take: one that is frozen reads nothing.
	writeTimeout = 2 * pingInterval

	// maxAnswers is how many answers a request may have: a batch and its end.
	maxAnswers = batchTurns + 1

	// reconnectWait is how long to wait before the servers are tried again.
	reconnectWait = 250 * time.Millisecond
)

// A connection is an Engine that is real.
type connection struct{ nc *nats.Conn }

// connect returns at once; connecting is tried until the connection is closed. It calls connected
// each time that there is a connection, and logf with what to log, both from any goroutine.
// An error says that a setting is wrong.
func connect(o Options, connected func(), logf func(kind, format string, args ...any)) (*connection, error) {
	options := []nats.Option{
		nats.Name("chat"),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.Timeout(dialTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(writeTimeout),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.ReconnectBufSize(-1), // what is repeated is decided here
		nats.ConnectHandler(func(nc *nats.Conn) {
			logf("nats connected", "nats: connected to %s", nc.ConnectedUrlRedacted())
			connected()
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			logf("nats connected", "nats: connected to %s again", nc.ConnectedUrlRedacted())
			connected()
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				logf("nats disconnected", "nats: disconnected: %v", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { logf("nats unreachable", "nats: %v", err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { logf("nats error", "nats: %v", err) }),
	}
	if o.Creds != "" {
		if _, err := os.ReadFile(o.Creds); err != nil { // now, and not with each attempt
			return nil, err
		}
		options = append(options, nats.UserCredentials(o.Creds))
	}
	if o.CA != "" {
		options = append(options, nats.RootCAs(o.CA), nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	nc, err := nats.Connect(strings.Join(o.URLs, ","), options...)
	if err != nil {
		return nil, err
	}
	return &connection{nc}, nil
}

// Request implements Engine.
func (c *connection) Request(ctx context.Context, m *Message) (*Message, error) {
	a, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
	if err != nil {
		return nil, err
	}
	return received(a), nil
}

// received returns a message that came.
func received(m *nats.Msg) *Message { return &Message{m.Subject, m.Header, m.Data} }

// RequestAll implements Engine.
func (c *connection) RequestAll(ctx context.Context, m *Message, answer func(*Message) bool) error {
	inbox, answers := c.nc.NewInbox(), make(chan *nats.Msg, maxAnswers)
	sub, err := c.nc.ChanSubscribe(inbox, answers) // SubscribeSync makes room for 65,536
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() // an error says that the connection is closed
	if err := c.nc.PublishMsg(&nats.Msg{Subject: m.Subject, Reply: inbox, Data: m.Data}); err != nil {
		return err
	}
	for {
		select {
		case a := <-answers:
			if !answer(received(a)) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Publish implements Engine.
func (c *connection) Publish(subject string, data []byte) error { return c.nc.Publish(subject, data) }

// Subscribe implements Engine.
func (c *connection) Subscribe(subject string, handle func(*Message)) error {
	_, err := c.nc.Subscribe(subject, func(m *nats.Msg) { handle(received(m)) })
	return err
}

// IsConnected implements Engine.
func (c *connection) IsConnected() bool { return c.nc.IsConnected() }

// Reconnect implements Engine.
func (c *connection) Reconnect() { c.nc.ForceReconnect() } // an error says that it is closed

// Close implements Engine.
func (c *connection) Close() { c.nc.Close() }

// An apiError is an error that JetStream answers with.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// Error implements error.
func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// Error codes of JetStream.
const (
	codeNoMessage  = 10037
	codeTooLarge   = 10054
	codeNameInUse  = 10058
	codeNoStream   = 10059
	codeWrongLast  = 10071
	codeWrongLast2 = 10164 // the same, without the sequence number
)

// isCode reports whether err is an error of JetStream with one of these codes.
func isCode(err error, codes ...int) bool {
	var e *apiError
	return errors.As(err, &e) && slices.Contains(codes, e.ErrCode)
}
