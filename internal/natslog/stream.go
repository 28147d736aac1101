package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"chat/internal/history"
	"chat/internal/protocol"
)

// What is asked of JetStream, and how the answers are read.

// ask asks JetStream's API, and reads the answer into v.
func (s *Stream) ask(subject string, request, v any) error {
	ctx, cancel := context.WithTimeout(s.ctx, requestTimeout)
	defer cancel()
	m := &Message{Subject: "$JS.API." + subject}
	if request != nil {
		m.Data, _ = json.Marshal(request) // it can be encoded
	}
	a, err := s.engine.Request(ctx, m)
	if err != nil {
		return err
	}
	return readAnswer(a, v)
}

// readAnswer reads an answer of JetStream into v.
func readAnswer(a *Message, v any) error {
	var failed struct {
		Error *apiError `json:"error"`
	}
	if json.Unmarshal(a.Data, &failed) != nil {
		return errAnswer
	}
	if failed.Error != nil {
		return failed.Error
	}
	if json.Unmarshal(a.Data, v) != nil {
		return errAnswer
	}
	return nil
}

// config returns how the stream is made.
func (s *Stream) config() *nats.StreamConfig {
	return &nats.StreamConfig{
		Name:              streamName,
		Subjects:          []string{publishPrefix + ">"},
		Storage:           nats.FileStorage,
		Replicas:          s.options.Replicas,
		MaxMsgsPerSubject: maxRoomTurns,
		MaxMsgs:           -1,
		MaxBytes:          s.options.MaxBytes,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		MaxAge:            s.options.Keep,
		Discard:           nats.DiscardOld,
		AllowDirect:       true,
		RePublish:         &nats.RePublish{Source: publishPrefix + ">", Destination: republishPrefix + ">"},
		FirstSeq:          uint64(time.Now().UnixMilli()),
	}
}

// errNoLeader says that a node answered whose stream has no leader, so that nobody knows
// where it ends.
var errNoLeader = errors.New("the stream has no leader")

// errStaleLeader says that a node answered that takes itself for the stream's leader, and has
// heard of no majority of the nodes for a while: another one may lead it.
var errStaleLeader = errors.New("the stream's leader is cut off")

// followerSilence is how long a node may be silent that counts as a follower. It is under the
// four seconds that nodes wait at least before they elect another leader.
const followerSilence = 3 * time.Second

// isLed reports whether most nodes of a cluster follow the leader, so that nobody else leads.
func isLed(c *nats.ClusterInfo) bool {
	following := 1 // the leader itself
	for _, r := range c.Replicas {
		if !r.Offline && r.Active > 0 && r.Active < followerSilence { // 0 is never
			following++
		}
	}
	return 2*following > 1+len(c.Replicas)
}

// info asks the stream's leader for its state.
func (s *Stream) info() (*nats.StreamInfo, error) {
	var info nats.StreamInfo
	if err := s.ask("STREAM.INFO."+streamName, nil, &info); err != nil {
		return nil, err
	}
	if info.Cluster != nil && info.Cluster.Leader == "" {
		return nil, errNoLeader
	}
	if info.Cluster != nil && !isLed(info.Cluster) {
		return nil, errStaleLeader
	}
	return &info, nil
}

// ensure returns the stream's state, and makes the stream if it is missing.
func (s *Stream) ensure() (*nats.StreamInfo, error) {
	info, err := s.info()
	if isCode(err, codeNoStream) {
		return s.create()
	}
	return info, err
}

// create makes the stream. If somebody else was faster, it takes that one as it is.
func (s *Stream) create() (*nats.StreamInfo, error) {
	var info nats.StreamInfo
	err := s.ask("STREAM.CREATE."+streamName, s.config(), &info)
	if isCode(err, codeNameInUse) {
		return s.info()
	}
	if err != nil {
		return nil, err
	}
	s.monitor.Logf("nats stream", "nats: the stream %s was made", streamName)
	return &info, nil
}

// check logs what a stream that was made elsewhere lacks.
func (s *Stream) check(info *nats.StreamInfo) {
	want, is := s.config(), info.Config
	var lacks []string
	note := func(differs bool, what string) {
		if differs {
			lacks = append(lacks, what)
		}
	}
	note(is.Storage != want.Storage, "file storage")
	note(!slices.Equal(is.Subjects, want.Subjects), fmt.Sprintf("the subject %s> alone", publishPrefix))
	note(!is.AllowDirect, "allow_direct")
	note(is.RePublish == nil || *is.RePublish != *want.RePublish, fmt.Sprintf("republish from %s> to %s>", publishPrefix, republishPrefix))
	note(is.MaxMsgsPerSubject != want.MaxMsgsPerSubject, fmt.Sprintf("max_msgs_per_subject %d", maxRoomTurns))
	note(is.Discard != want.Discard, "discard old")
	note(is.MaxMsgSize > 0 && is.MaxMsgSize < maxTurnBytes, fmt.Sprintf("max_msg_size %d or more", maxTurnBytes))
	note(is.MaxAge != want.MaxAge, fmt.Sprintf("max_age %v, as -keep says", want.MaxAge))
	note(is.Replicas < want.Replicas, fmt.Sprintf("%d replicas", want.Replicas))
	if len(lacks) > 0 {
		s.monitor.Logf("nats stream", "nats: the stream %s is there, and is used as it is, without %s", streamName, strings.Join(lacks, ", "))
	}
}

// store publishes a turn and returns the sequence number under which the stream has it.
func (s *Stream) store(ctx context.Context, subject string, t *turn) (seq uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m := &Message{Subject: subject, Data: t.data, Header: map[string][]string{nats.MsgIdHdr: {t.id.String()}}}
	a, err := s.engine.Request(ctx, m)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Stream string `json:"stream"`
		Seq    uint64 `json:"seq"`
	}
	if err := readAnswer(a, &ack); err != nil {
		return 0, err
	}
	if ack.Stream != streamName || ack.Seq == 0 {
		return 0, errAnswer
	}
	return ack.Seq, nil
}

// lastOf asks the stream's leader for the last sequence number of a subject, 0 if there is
// none. (A replica may not have the last ones yet.)
func (s *Stream) lastOf(subject string) (uint64, error) {
	_, seq, err := s.get(map[string]any{"last_by_subj": subject})
	return seq, err
}

// next asks the stream's leader for the first turn of a subject, which may have a wildcard,
// from a sequence number on.
func (s *Stream) next(subject string, from uint64) (m *Message, seq uint64, err error) {
	return s.get(map[string]any{"next_by_subj": subject, "seq": from})
}

// at asks the stream's leader for the turn with a sequence number. It returns nil if there is
// none.
func (s *Stream) at(seq uint64) (*Message, error) {
	m, _, err := s.get(map[string]any{"seq": seq})
	return m, err
}

// get asks the stream's leader for one turn. It returns nil and 0 if there is none. A header
// that cannot be read is left out.
func (s *Stream) get(request map[string]any) (m *Message, seq uint64, err error) {
	var answer struct {
		Message struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Header  []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	err = s.ask("STREAM.MSG.GET."+streamName, request, &answer)
	if isCode(err, codeNoMessage) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	found := answer.Message
	header, err := nats.DecodeHeadersMsg(found.Header)
	if err != nil {
		header = make(nats.Header)
	}
	header.Add("Nats-Stream", streamName)
	header.Add("Nats-Subject", found.Subject)
	header.Add("Nats-Sequence", strconv.FormatUint(found.Seq, 10))
	m = &Message{found.Subject, header, found.Data}
	if sequence(m) != found.Seq { // there are no ids for it
		return nil, 0, errAnswer
	}
	return m, found.Seq, nil
}

const (
	// batchTurns is how many turns are fetched at once, at most.
	batchTurns = 500

	// batchBytes is how many bytes are fetched at once, at most, but for the last turn.
	batchBytes = 1 << 20
)

// errHole says that an answer does not follow the one before: a connection was lost and made
// again between them, or the header of one cannot be read.
var errHole = errors.New("a part of the answer is lost")

// errNobody says that no node answers direct requests.
var errNobody = errors.New("no node answers")

// fetch fetches stored turns of a subject, which may have a wildcard, from a sequence number
// on, in order. It reports the end when the node that answered has no more. An error may come
// after some turns: those were taken. Where the answer cannot be read, or no node answers, the
// leader is asked for one turn.
func (s *Stream) fetch(ctx context.Context, subject string, from uint64, take func(m *Message, seq uint64)) (end bool, err error) {
	last, end, err := s.fetchBatch(ctx, subject, from, take)
	if !errors.Is(err, errHole) && !errors.Is(err, errNobody) {
		return end, err
	}
	m, seq, err := s.next(subject, max(from, last+1))
	if m != nil {
		take(m, seq)
	}
	return m == nil && err == nil, err
}

// fetchBatch does what fetch does, with one request. It returns the sequence number of the
// last turn that was taken, 0 for none.
func (s *Stream) fetchBatch(ctx context.Context, subject string, from uint64, take func(m *Message, seq uint64)) (last uint64, end bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timeout := time.AfterFunc(requestTimeout, func() { cancel(context.DeadlineExceeded) })
	defer timeout.Stop()
	request, _ := json.Marshal(map[string]any{"next_by_subj": subject, "seq": from, "batch": batchTurns, "max_bytes": batchBytes})
	m := &Message{Subject: "$JS.API.DIRECT.GET." + streamName, Data: request}
	var failed error
	err = s.engine.RequestAll(ctx, m, func(a *Message) bool {
		timeout.Reset(requestTimeout)
		seq, status := sequence(a), ""
		if seq == 0 { // else it is a field of a turn
			status = a.header("Status")
		}
		if status == "404" {
			end = true
			return false
		}
		if status == "503" {
			failed = errNobody
			return false
		}
		if status != "" && status != "204" {
			failed = fmt.Errorf("%s %s", status, a.header("Description"))
			return false
		}
		if a.header("Nats-Last-Sequence") != strconv.FormatUint(last, 10) {
			failed = errHole
			return false
		}
		if status == "204" {
			end = a.header("Nats-Num-Pending") == "0"
			return false
		}
		if seq < from || seq <= last {
			failed = errAnswer
			return false
		}
		last = seq
		take(a, seq)
		return true
	})
	if err == nil {
		err = failed
	} else if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return last, end, err
}

// keptMessages are the last messages of a room: at least those that a history keeps.
type keptMessages struct {
	messages []protocol.Message
	bytes    int   // of their texts
	goneID   int64 // nothing that was said after this is missing
}

// add adds a message.
func (k *keptMessages) add(m protocol.Message) {
	k.messages = append(k.messages, m)
	k.bytes += len(m.Text)
	for len(k.messages) > history.MaxMessages || k.bytes > history.MaxBytes {
		k.goneID = max(k.goneID, k.messages[0].ID)
		k.bytes -= len(k.messages[0].Text)
		k.messages = k.messages[1:]
	}
	if len(k.messages) == cap(k.messages) {
		k.messages = append(make([]protocol.Message, 0, 2*history.MaxMessages), k.messages...)
	}
}

// forget drops the messages up to an id.
func (k *keptMessages) forget(goneID int64) {
	k.goneID = max(k.goneID, goneID)
	k.messages = slices.DeleteFunc(slices.Clone(k.messages), func(m protocol.Message) bool { return m.ID <= k.goneID })
}

// errBehind says that the stream's leader has less than was read of the stream: it is new, and
// has not carried out all that the nodes agreed on.
var errBehind = errors.New("the stream's leader is behind")

// errLags says that the node that is asked for turns lacks some that the stream has.
var errLags = errors.New("the node lacks turns that the stream has")

// maxLags is how many answers that end too early, a twentieth of a second apart, make errLags.
const maxLags = 40

// readRoom reads a room as the stream has it now, at least up to the cursor. The stream's first
// sequence number is asked last: turns may be deleted while they are read.
func (s *Stream) readRoom(ctx context.Context, subject string) (*roomSnapshot, error) {
	cursor := s.cursor.Load()
	info, err := s.info()
	if err != nil {
		return nil, err
	}
	if info.State.LastSeq < cursor {
		return nil, errBehind
	}
	until, err := s.lastOf(subject)
	if err != nil {
		return nil, err
	}
	o := &roomSnapshot{window: newWindow()}
	turns, firstTurn, lags := 0, uint64(0), 0
	for o.last < until {
		before := o.last
		end, err := s.fetch(ctx, subject, o.last+1, func(m *Message, seq uint64) {
			if turns++; turns == 1 {
				firstTurn = seq
			}
			o.last = seq
			id, messages := s.decode(m, seq)
			if len(messages) == 0 || !o.window.begin(id) {
				return
			}
			for _, m := range messages {
				if !o.window.add(&m) {
					o.kept.add(m)
				}
			}
		})
		if err != nil && (ctx.Err() != nil || o.last == before) {
			return nil, err
		}
		if !end || o.last > before {
			continue
		}
		if lags++; lags == maxLags {
			return nil, errLags
		}
		if !sleep(ctx, retryDelay/2) { // the node that answered lags, or the last turn is gone
			return nil, ctx.Err()
		}
		if until, err = s.lastOf(subject); err != nil {
			return nil, err
		}
	}
	if info, err = s.info(); err != nil {
		return nil, err
	}
	if turns >= turnLimit(info) {
		o.kept.goneID = max(o.kept.goneID, endID(firstTurn-1))
	}
	o.kept.forget(endID(info.State.FirstSeq - 1))
	return o, nil
}

// turnLimit returns how many turns the stream keeps of a room.
func turnLimit(info *nats.StreamInfo) int {
	if limit := info.Config.MaxMsgsPerSubject; limit > 0 && limit < maxRoomTurns {
		return int(limit)
	}
	return maxRoomTurns
}

// Kept returns the last messages of a room, and an id after which nothing is missing in
// them. The room need not be open.
func (s *Stream) Kept(ctx context.Context, room string) (*Snapshot, error) {
	select {
	case <-s.contact:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case s.readSlots <- struct{}{}:
		defer func() { <-s.readSlots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	o, err := s.readRoom(ctx, subject(room))
	if err != nil {
		return nil, err
	}
	return &Snapshot{o.kept.messages, o.kept.goneID}, nil
}

// open reads the room, and tries again until that succeeds or another reading begins.
func (l *Log) open(reading uint64) {
	s := l.stream
	select {
	case <-s.contact:
	case <-l.ctx.Done():
		return
	}
	for {
		select {
		case s.openSlots <- struct{}{}:
		case <-l.ctx.Done():
			return
		}
		o, err := s.readRoom(l.ctx, l.subject)
		<-s.openSlots
		l.mu.Lock()
		isCurrent := l.reading == reading
		if isCurrent && err == nil {
			l.snapshot = o
		}
		l.mu.Unlock()
		if !isCurrent || l.ctx.Err() != nil {
			return
		}
		if err == nil {
			l.signal()
			return
		}
		s.logLimited("nats open", "nats: %s cannot be read: %v", l.subject, err)
		if errors.Is(err, errLags) {
			s.leaveNode()
		}
		if !sleep(l.ctx, retryDelay) {
			return
		}
	}
}

// lose begins the room again. Its clients are disconnected for a reason.
func (l *Log) lose(reason *protocol.Disconnect) {
	l.mu.Lock()
	l.queue, l.snapshot, l.lost = nil, nil, reason
	l.reading++
	reading := l.reading
	l.mu.Unlock()
	l.signal()
	l.stream.running.Go(func() { l.open(reading) })
}
