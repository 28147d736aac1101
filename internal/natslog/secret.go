package natslog

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"
)

const (
	// bucket is the stream of the key-value bucket in which the secret is.
	bucket = "KV_chat"

	// secretSubject is the subject of its key.
	secretSubject = "$KV.chat.secret"
)

// sharedSecret returns the secret that all servers share: the stored one, or the offered one,
// which it stores if there is none.
func (s *Stream) sharedSecret(offer [32]byte) (secret [32]byte, err error) {
	if err := s.ensureBucket(); err != nil {
		return secret, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, requestTimeout)
	defer cancel()
	for {
		secret, ok, err := s.storedSecret(ctx)
		if ok || err != nil {
			return secret, err
		}
		m := &Message{
			Subject: secretSubject,
			Data:    []byte(hex.EncodeToString(offer[:])),
			Header:  map[string][]string{nats.ExpectedLastSubjSeqHdr: {"0"}}, // the first wins
		}
		a, err := s.engine.Request(ctx, m)
		if err != nil {
			return secret, err
		}
		err = readAnswer(a, new(struct{}))
		if err == nil {
			return offer, nil
		}
		if !isCode(err, codeWrongLast, codeWrongLast2) {
			return secret, err
		}
		if !sleep(ctx, retryDelay) { // a node that lags does not have it yet
			return secret, ctx.Err()
		}
	}
}

// keepSecret stores the secret again if NATS has lost it with the stream. It reports false if
// it is to be called again.
func (s *Stream) keepSecret() bool {
	stored, err := s.sharedSecret(s.secret)
	if err != nil {
		s.logLimited("nats secret", "nats: the secret: %v", err)
		return false
	}
	if stored != s.secret {
		s.monitor.Logf("nats secret", "nats: other servers have another secret: user ids differ until this one is restarted")
	}
	return true
}

// storedSecret returns the secret that is in the bucket, if there is one.
func (s *Stream) storedSecret(ctx context.Context) (secret [32]byte, ok bool, err error) {
	a, err := s.engine.Request(ctx, &Message{Subject: "$JS.API.DIRECT.GET." + bucket + "." + secretSubject})
	if err != nil {
		return secret, false, err
	}
	switch status := a.header("Status"); status {
	case "":
	case "404":
		return secret, false, nil
	default:
		return secret, false, fmt.Errorf("%s %s", status, a.header("Description"))
	}
	if n, err := hex.Decode(secret[:], a.Data[:min(len(a.Data), 2*len(secret)+1)]); err != nil || n != len(secret) {
		return secret, false, fmt.Errorf("%s is not 64 hexadecimal digits", secretSubject)
	}
	return secret, true, nil
}

// ensureBucket makes the bucket if it is missing. It is one that NATS's own tools know.
func (s *Stream) ensureBucket() error {
	var answer json.RawMessage
	err := s.ask("STREAM.INFO."+bucket, nil, &answer)
	if !isCode(err, codeNoStream) {
		return err
	}
	config := &nats.StreamConfig{
		Name:              bucket,
		Subjects:          []string{"$KV.chat.>"},
		Storage:           nats.FileStorage,
		Replicas:          s.options.Replicas,
		MaxMsgsPerSubject: 1,
		MaxMsgs:           -1,
		MaxBytes:          1 << 20,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		Discard:           nats.DiscardNew,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
	}
	err = s.ask("STREAM.CREATE."+bucket, config, &answer)
	if isCode(err, codeNameInUse) {
		return nil
	}
	return err
}
