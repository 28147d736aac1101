// Package natstest simulates NATS with JetStream as far as package natslog uses it, for tests
// on fake time. It has one stream for each name, and can do what goes wrong with the real one:
// be away, lose what is sent, answer late, and lose a stream or its end.
package natstest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"chat/internal/natslog"
)

// errAway is what a connection says that has no answer.
var errAway = errors.New("no responders available")

// dedupeWindow is how long a stream knows the ids of what it has stored.
const dedupeWindow = 2 * time.Minute

// NATS is a cluster. Its methods may be called from any goroutine.
type NATS struct {
	mu          sync.Mutex
	latency     time.Duration
	pace        time.Duration
	streams     map[string]*stream
	conns       []*Conn
	isAway      bool
	isFull      bool
	noDirect    string // name of a stream
	noLeader    bool
	refusal     string
	loseAcks    int    // how many
	loseSaid    int    // how many
	loseFetched int    // which message of a batch, from 1 on; 0 for none
	lag         uint64 // how many of the last messages a node that is asked directly has not got
	leaderLag   uint64 // how many of them the leader has not got
	asked       map[string]int
}

// A stream is what JetStream keeps.
type stream struct {
	request  string // that made it
	config   config
	created  time.Time
	last     uint64
	messages []stored
	count    map[string]int // of the messages, by subject
	ids      map[string]stored
}

// A config is what is used of a stream's configuration.
type config struct {
	Name              string          `json:"name"`
	Subjects          []string        `json:"subjects"`
	Storage           string          `json:"storage"`
	Discard           string          `json:"discard"`
	Replicas          int             `json:"num_replicas"`
	MaxMsgsPerSubject int             `json:"max_msgs_per_subject"`
	MaxAge            time.Duration   `json:"max_age"`
	MaxMsgSize        int             `json:"max_msg_size"`
	MaxBytes          int64           `json:"max_bytes"`
	AllowDirect       bool            `json:"allow_direct"`
	FirstSeq          uint64          `json:"first_seq"`
	RePublish         json.RawMessage `json:"republish,omitempty"`
}

// A stored is a message that a stream has.
type stored struct {
	subject string
	header  header // nil if it cannot be read
	data    []byte
	seq     uint64
	at      time.Time
}

// A header is that of a message.
type header map[string][]string

// get returns all values of a field.
func (h header) get(name string) string { return strings.Join(h[name], "") }

// encode returns the header as NATS transmits it.
func (h header) encode() []byte {
	if h == nil {
		return []byte("NATS/1.0\r\nno colon\r\n\r\n")
	}
	text := []byte("NATS/1.0\r\n")
	for name, values := range h {
		for _, value := range values {
			text = fmt.Appendf(text, "%s: %s\r\n", name, value)
		}
	}
	return append(text, "\r\n"...)
}

// New returns a cluster without streams.
func New() *NATS {
	return &NATS{streams: make(map[string]*stream), asked: make(map[string]int)}
}

// A Conn is a connection. It implements natslog.Engine.
type Conn struct {
	nats       *NATS
	ctx        context.Context
	stop       context.CancelFunc
	subs       []*subscription
	isCut      bool
	reconnects int
}

// A subscription hands over what is published.
type subscription struct {
	subject string
	queue   chan *natslog.Message
}

// Connect returns a connection.
func (n *NATS) Connect() *Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &Conn{nats: n}
	c.ctx, c.stop = context.WithCancel(context.Background())
	n.conns = append(n.conns, c)
	return c
}

// SetLatency sets how long a message takes, each way. It takes no time before.
func (n *NATS) SetLatency(d time.Duration) { n.locked(func() { n.latency = d }) }

// SetPace sets how long each message of an answer with several takes, one after the other. They
// come at once before.
func (n *NATS) SetPace(d time.Duration) { n.locked(func() { n.pace = d }) }

// SetAway has the cluster answer nobody, or answer again.
func (n *NATS) SetAway(isAway bool) { n.locked(func() { n.isAway = isAway }) }

// SetFull has the streams store nothing more, or store again.
func (n *NATS) SetFull(isFull bool) { n.locked(func() { n.isFull = isFull }) }

// RefuseDirect has nobody answer direct questions to a stream.
func (n *NATS) RefuseDirect(name string) { n.locked(func() { n.noDirect = name }) }

// SetLeaderless has the streams without a leader, as on a node that is cut off from the
// others: only what it knows by itself is answered.
func (n *NATS) SetLeaderless(is bool) { n.locked(func() { n.noLeader = is }) }

// Refuse has no stream made, for a reason, "" for none.
func (n *NATS) Refuse(reason string) { n.locked(func() { n.refusal = reason }) }

// LoseAcks has the next answers to what is published in a stream lost: it is stored.
func (n *NATS) LoseAcks(count int) { n.locked(func() { n.loseAcks = count }) }

// LoseSaid has the next messages that the stream stores not published again.
func (n *NATS) LoseSaid(count int) { n.locked(func() { n.loseSaid = count }) }

// LagLeader has the leader lack the last messages, as a new one does that has not carried out all
// that the nodes agreed on.
func (n *NATS) LagLeader(messages uint64) { n.locked(func() { n.leaderLag = messages }) }

// LoseFetched has one message lost, from 1 on, of the next batch that has so many.
func (n *NATS) LoseFetched(number int) { n.locked(func() { n.loseFetched = number }) }

// Lag has direct questions answered by a node that lacks the last messages.
func (n *NATS) Lag(messages uint64) { n.locked(func() { n.lag = messages }) }

// Delete deletes a stream.
func (n *NATS) Delete(name string) { n.locked(func() { delete(n.streams, name) }) }

// Cut deletes the last messages of a stream, as if they had never been there.
func (n *NATS) Cut(name string, messages int) {
	n.locked(func() {
		s := n.streams[name]
		for range messages {
			last := s.messages[len(s.messages)-1]
			s.count[last.subject]--
			delete(s.ids, last.header.get("Nats-Msg-Id"))
			s.messages = s.messages[:len(s.messages)-1]
		}
		s.last -= uint64(messages)
	})
}

// Purge deletes all messages of a stream, whose sequence numbers go on.
func (n *NATS) Purge(name string) {
	n.locked(func() {
		n.streams[name].messages = nil
		clear(n.streams[name].count)
	})
}

// DeleteLast deletes the last message of a stream, whose sequence numbers go on.
func (n *NATS) DeleteLast(name string) {
	n.locked(func() {
		s := n.streams[name]
		s.count[s.messages[len(s.messages)-1].subject]--
		s.messages = s.messages[:len(s.messages)-1]
	})
}

// Put stores a message in a stream and does not publish it again.
func (n *NATS) Put(name, subject, id string, data []byte) {
	n.locked(func() {
		n.streams[name].add(subject, map[string][]string{"Nats-Msg-Id": {id}}, data)
	})
}

// SetMaxMsgSize has a stream refuse longer messages.
func (n *NATS) SetMaxMsgSize(name string, bytes int) {
	n.locked(func() { n.streams[name].config.MaxMsgSize = bytes })
}

// Garble has clients of NATS unable to read the header of the last message of a stream.
func (n *NATS) Garble(name string) {
	n.locked(func() {
		s := n.streams[name]
		s.messages[len(s.messages)-1].header = nil
	})
}

// Stored returns what a stream has stored of a subject.
func (n *NATS) Stored(name, subject string) (data []string) {
	n.locked(func() {
		for _, m := range n.streams[name].messages {
			if m.subject == subject {
				data = append(data, string(m.data))
			}
		}
	})
	return data
}

// Last returns the last sequence number of a stream.
func (n *NATS) Last(name string) (seq uint64) {
	n.locked(func() { seq = n.streams[name].last })
	return seq
}

// Config returns the configuration with which a stream was made, in JSON.
func (n *NATS) Config(name string) (request string) {
	n.locked(func() { request = n.streams[name].request })
	return request
}

// Asked returns how many requests to a subject were answered.
func (n *NATS) Asked(subject string) (count int) {
	n.locked(func() { count = n.asked[subject] })
	return count
}

func (n *NATS) locked(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
}

// SetCut cuts a connection off, or mends it: nothing comes through, and nobody is told.
func (c *Conn) SetCut(isCut bool) { c.nats.locked(func() { c.isCut = isCut }) }

// Reconnects returns how often Reconnect was called.
func (c *Conn) Reconnects() (count int) {
	c.nats.locked(func() { count = c.reconnects })
	return count
}

// Request implements natslog.Engine.
func (c *Conn) Request(ctx context.Context, m *natslog.Message) (answer *natslog.Message, err error) {
	err = c.RequestAll(ctx, m, func(a *natslog.Message) bool {
		answer = a
		return false
	})
	return answer, err
}

// RequestAll implements natslog.Engine.
func (c *Conn) RequestAll(ctx context.Context, m *natslog.Message, answer func(*natslog.Message) bool) error {
	if err := c.travel(ctx); err != nil {
		return err
	}
	c.nats.mu.Lock()
	answers, err := c.nats.answer(m)
	c.nats.mu.Unlock()
	if err != nil {
		return err
	}
	if err := c.travel(ctx); err != nil {
		return err
	}
	for _, a := range answers {
		var pace time.Duration
		c.nats.locked(func() { pace = c.nats.pace })
		if len(answers) > 1 && !sleep(ctx, pace) {
			return ctx.Err()
		}
		if !answer(a) {
			return nil
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// travel takes as long as a message on its way. It takes for ever on a connection that is
// cut off.
func (c *Conn) travel(ctx context.Context) error {
	if !c.nats.delay(ctx) {
		return ctx.Err()
	}
	var isCut bool
	c.nats.locked(func() { isCut = c.isCut })
	if isCut {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// delay waits as long as a message takes. It reports false if ctx ends before.
func (n *NATS) delay(ctx context.Context) bool {
	var latency time.Duration
	n.locked(func() { latency = n.latency })
	return sleep(ctx, latency)
}

// sleep waits. It reports false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// Publish implements natslog.Engine.
func (c *Conn) Publish(subject string, data []byte) error {
	c.nats.mu.Lock()
	defer c.nats.mu.Unlock()
	if c.nats.isAway {
		return errAway
	}
	if !c.isCut {
		c.nats.publish(&natslog.Message{Subject: subject, Data: data})
	}
	return nil
}

// Subscribe implements natslog.Engine.
func (c *Conn) Subscribe(subject string, handle func(*natslog.Message)) error {
	s := &subscription{subject, make(chan *natslog.Message, 1<<16)}
	c.nats.mu.Lock()
	c.subs = append(c.subs, s)
	c.nats.mu.Unlock()
	go func() {
		for {
			select {
			case m := <-s.queue:
				if !c.nats.delay(c.ctx) {
					return
				}
				handle(m)
			case <-c.ctx.Done():
				return
			}
		}
	}()
	return nil
}

// Serve implements natslog.Engine.
func (c *Conn) Serve(string, string, map[string]string, func() any) error { return nil }

// IsConnected implements natslog.Engine.
func (c *Conn) IsConnected() (is bool) {
	c.nats.locked(func() { is = !c.nats.isAway && !c.isCut })
	return is
}

// Reconnect implements natslog.Engine.
func (c *Conn) Reconnect() { c.nats.locked(func() { c.reconnects++ }) }

// Close implements natslog.Engine.
func (c *Conn) Close() { c.stop() }

// publish hands a message to those who have subscribed. The lock must be held.
func (n *NATS) publish(m *natslog.Message) {
	for _, c := range n.conns {
		for _, s := range c.subs {
			prefix, isWild := strings.CutSuffix(s.subject, ">")
			if c.isCut || c.ctx.Err() != nil || s.subject != m.Subject && !(isWild && strings.HasPrefix(m.Subject, prefix)) {
				continue
			}
			s.queue <- m
		}
	}
}

// answer answers a request. The lock must be held.
func (n *NATS) answer(m *natslog.Message) ([]*natslog.Message, error) {
	if n.isAway {
		return nil, errAway
	}
	if n.noLeader && !strings.HasPrefix(m.Subject, "$JS.API.DIRECT.") && !strings.HasPrefix(m.Subject, "$JS.API.STREAM.INFO.") {
		return nil, nil
	}
	n.asked[m.Subject]++
	if question, ok := strings.CutPrefix(m.Subject, "$JS.API."); ok {
		return n.ask(question, m.Data)
	}
	for _, s := range n.streams {
		for _, subject := range s.config.Subjects {
			if prefix := strings.TrimSuffix(subject, ">"); strings.HasPrefix(m.Subject, prefix) {
				return n.store(s, m)
			}
		}
	}
	return nil, errAway
}

// ask answers a request to JetStream's API. The lock must be held.
func (n *NATS) ask(question string, request []byte) ([]*natslog.Message, error) {
	var get struct {
		Last     string `json:"last_by_subj"`
		Next     string `json:"next_by_subj"`
		Seq      uint64 `json:"seq"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}
	switch {
	case strings.HasPrefix(question, "STREAM.INFO."):
		return n.info(strings.TrimPrefix(question, "STREAM.INFO."))
	case strings.HasPrefix(question, "STREAM.CREATE."):
		return n.create(request)
	case strings.HasPrefix(question, "STREAM.MSG.GET."):
		s := n.streams[strings.TrimPrefix(question, "STREAM.MSG.GET.")]
		if s == nil {
			return failed(10059, "stream not found")
		}
		if err := json.Unmarshal(request, &get); err != nil {
			return nil, err
		}
		found := s.next(get.Next, get.Seq, n.leaderLag)
		if get.Last != "" {
			found = s.next(get.Last, 0, n.leaderLag)
			found = found[max(0, len(found)-1):]
		} else if get.Next == "" {
			found = slices.DeleteFunc(s.next(">", get.Seq, n.leaderLag), func(m stored) bool { return m.seq != get.Seq })
		}
		if len(found) == 0 {
			return failed(10037, "no message found")
		}
		return object(map[string]any{"message": map[string]any{"subject": found[0].subject, "seq": found[0].seq, "hdrs": found[0].header.encode(), "data": found[0].data}})
	case strings.HasPrefix(question, "DIRECT.GET."):
		name, subject, isLast := strings.Cut(strings.TrimPrefix(question, "DIRECT.GET."), ".")
		s := n.streams[name]
		if s == nil || name == n.noDirect {
			return status("503", nil)
		}
		if isLast {
			if found := s.next(subject, 0, 0); len(found) > 0 {
				return []*natslog.Message{found[len(found)-1].message(name)}, nil
			}
			return status("404", nil)
		}
		if err := json.Unmarshal(request, &get); err != nil {
			return nil, err
		}
		found := s.next(get.Next, get.Seq, n.lag)
		if len(found) == 0 {
			return status("404", nil)
		}
		var answers []*natslog.Message
		size, before := 0, "0"
		for _, m := range found {
			a := m.message(name)
			if a.Header != nil {
				a.Header["Nats-Last-Sequence"] = append(a.Header["Nats-Last-Sequence"], before)
			}
			before = strconv.FormatUint(m.seq, 10)
			answers = append(answers, a)
			if size += len(m.data); len(answers) == get.Batch || size >= get.MaxBytes {
				break
			}
		}
		end, _ := status("204", map[string][]string{"Nats-Num-Pending": {strconv.Itoa(len(found) - len(answers))}, "Nats-Last-Sequence": {before}})
		answers = append(answers, end...)
		if i := n.loseFetched - 1; i >= 0 && i < len(answers) {
			answers, n.loseFetched = slices.Delete(answers, i, i+1), 0
		}
		return answers, nil
	}
	return nil, fmt.Errorf("%s is not simulated", question)
}

// info answers with a stream's state. The lock must be held.
func (n *NATS) info(name string) ([]*natslog.Message, error) {
	s := n.streams[name]
	if s == nil {
		return failed(10059, "stream not found")
	}
	first := s.last + 1
	if len(s.messages) > 0 {
		first = s.messages[0].seq
	}
	leader, last := "n1", s.last-n.leaderLag
	if n.noLeader {
		leader, last = "", s.last-n.lag
	}
	return object(map[string]any{
		"config":  s.config,
		"created": s.created,
		"state":   map[string]any{"first_seq": first, "last_seq": last, "messages": len(s.messages)},
		"cluster": map[string]any{"name": "test", "leader": leader},
	})
}

// create makes a stream. The lock must be held.
func (n *NATS) create(request []byte) ([]*natslog.Message, error) {
	if n.refusal != "" {
		return failed(10074, n.refusal)
	}
	var c config
	if err := json.Unmarshal(request, &c); err != nil {
		return nil, err
	}
	if s := n.streams[c.Name]; s != nil && s.config.FirstSeq != c.FirstSeq {
		return failed(10058, "stream name already in use with a different configuration")
	}
	if n.streams[c.Name] == nil {
		n.streams[c.Name] = &stream{request: string(request), config: c, created: time.Now(), last: max(c.FirstSeq, 1) - 1, count: make(map[string]int), ids: make(map[string]stored)}
	}
	return n.info(c.Name)
}

// store stores a message in a stream, and publishes it again. The lock must be held.
func (n *NATS) store(s *stream, m *natslog.Message) ([]*natslog.Message, error) {
	if expected := m.Header["Nats-Expected-Last-Subject-Sequence"]; expected != nil && len(s.next(m.Subject, 0, 0)) > 0 {
		return failed(10071, "wrong last sequence")
	}
	if limit := s.config.MaxMsgSize; limit > 0 && len(m.Data) > limit {
		return failed(10054, "message size exceeds maximum allowed")
	}
	if n.isFull {
		return failed(10077, "maximum bytes exceeded")
	}
	id := strings.Join(m.Header["Nats-Msg-Id"], "")
	before, isKnown := s.ids[id]
	isKnown = isKnown && id != "" && time.Since(before.at) < dedupeWindow
	if !isKnown {
		before = s.add(m.Subject, m.Header, m.Data)
		if n.loseSaid > 0 {
			n.loseSaid--
		} else if s.config.RePublish != nil {
			said := before.message(s.config.Name)
			said.Subject = "said." + strings.TrimPrefix(m.Subject, "chat.")
			n.publish(said)
		}
	}
	if n.loseAcks > 0 {
		n.loseAcks--
		return nil, nil
	}
	return object(map[string]any{"stream": s.config.Name, "seq": before.seq, "duplicate": isKnown})
}

// add stores a message.
func (s *stream) add(subject string, fields header, data []byte) stored {
	if fields == nil {
		fields = header{}
	}
	s.last++
	m := stored{subject, fields, data, s.last, time.Now()}
	s.ids[m.header.get("Nats-Msg-Id")] = m
	s.messages = append(s.messages, m)
	s.count[subject]++
	if limit := s.config.MaxMsgsPerSubject; limit > 0 && s.count[subject] > limit {
		i := slices.IndexFunc(s.messages, func(m stored) bool { return m.subject == subject })
		s.messages = slices.Delete(s.messages, i, i+1)
		s.count[subject]--
	}
	return m
}

// next returns the messages of a subject from a sequence number on, without the last ones.
func (s *stream) next(subject string, from, without uint64) (found []stored) {
	prefix, isWild := strings.CutSuffix(subject, ">")
	for _, m := range s.messages {
		if m.seq >= from && m.seq+without <= s.last && (m.subject == subject || isWild && strings.HasPrefix(m.subject, prefix)) {
			found = append(found, m)
		}
	}
	return found
}

// message returns a message as it is handed out.
func (m stored) message(stream string) *natslog.Message {
	if m.header == nil {
		return &natslog.Message{Subject: m.subject, Data: m.data}
	}
	header := make(map[string][]string)
	for name, values := range m.header {
		header[name] = slices.Clone(values)
	}
	for name, value := range map[string]string{"Nats-Stream": stream, "Nats-Subject": m.subject, "Nats-Sequence": strconv.FormatUint(m.seq, 10)} {
		header[name] = append(header[name], value) // after what the publisher wrote
	}
	return &natslog.Message{Subject: m.subject, Header: header, Data: m.data}
}

// object is an answer in JSON.
func object(v any) ([]*natslog.Message, error) {
	data, err := json.Marshal(v)
	return []*natslog.Message{{Data: data}}, err
}

// failed is an answer that tells an error.
func failed(code int, description string) ([]*natslog.Message, error) {
	return object(map[string]any{"error": map[string]any{"code": 400, "err_code": code, "description": description}})
}

// status is an answer without data.
func status(code string, header map[string][]string) ([]*natslog.Message, error) {
	all := map[string][]string{"Status": {code}}
	for name, values := range header {
		all[name] = values
	}
	return []*natslog.Message{{Header: all}}, nil
}
