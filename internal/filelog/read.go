package filelog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"chat/internal/history"
	"chat/internal/protocol"
)

// maxLine is the length in bytes of a line that is read, at most. A message has less than
// protocol.MaxFrame; the rest is for what somebody adds by hand.
const maxLine = 64 << 10

// maxReads is how many files of rooms that are not open are read at a time. The files of
// rooms that are opened do not count.
const maxReads = 4

// Read returns what is kept of a room that is not open, oldest first. It changes nothing,
// and waits for the disk no longer than a room does. The Monitor is told of an error. A nil
// Dir keeps nothing.
func (d *Dir) Read(room string) ([]*history.Entry, error) {
	if d == nil {
		return nil, nil
	}
	type result struct {
		entries []*history.Entry
		err     error
	}
	ctx, cancel := context.WithTimeout(context.Background(), diskTimeout)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		select {
		case d.reads <- struct{}{}:
			entries, err := d.readKept(filepath.Join(d.path, FileName(room)))
			<-d.reads
			done <- result{entries, err}
		case <-ctx.Done():
		}
	}()
	r := result{err: fmt.Errorf("%s: the disk does not answer", FileName(room))}
	select {
	case r = <-done:
	case <-ctx.Done():
	}
	if r.err != nil {
		d.monitor.Failed()
		d.monitor.Logf("history failed", "history: %v", r.err)
	}
	return r.entries, r.err
}

// readKept returns what a history that continues a file would keep.
func (d *Dir) readKept(path string) ([]*history.Entry, error) {
	f, err := openFile(path, os.O_RDONLY)
	if f == nil {
		return nil, err
	}
	defer f.Close()
	c, err := read(f)
	if err != nil || len(c.messages) == 0 {
		return nil, err
	}
	h := history.Restore(c.messages)
	if d.isExpired(h, time.Now()) {
		return nil, nil // it is about to be deleted
	}
	kept, _ := h.Kept()
	return kept, nil
}

// openFile opens a room's file. It returns nil, and no error, if there is none.
func openFile(path string, flag int) (*os.File, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	}
	return os.OpenFile(path, flag, 0)
}

// A content is what is in a file.
type content struct {
	messages []protocol.Message // the last ones, with increasing ids: those that a history keeps, and the one before
	lastID   int64              // the largest id in the file, of a message or what looks like one; 0 if there is none
	size     int64              // in bytes, up to the end of the last whole line
	torn     bool               // more bytes follow, which are no whole line
	bad      int                // lines that could not be read
	firstBad int                // number of the first of them
}

// A candidate is a line that looks like a message.
type candidate struct {
	id     int64
	number int
	text   []byte
}

// read reads a file to its end. Of the messages it keeps no more than a history does, and
// one more, so that the history knows which one is the last that is gone.
func read(r io.Reader) (c content, err error) {
	var last, gone []candidate
	bytesKept := 0
	lines := bufio.NewReaderSize(r, maxLine)
	for number := 1; ; number++ {
		line, err := lines.ReadSlice('\n')
		length, long := int64(len(line)), false
		for err == bufio.ErrBufferFull {
			long = true
			line, err = lines.ReadSlice('\n')
			length += int64(len(line))
		}
		if err == io.EOF {
			c.torn = length > 0
			break
		}
		if err != nil {
			return content{}, err
		}
		c.size += length
		line = bytes.TrimSpace(line)
		if len(line) == 0 && !long {
			continue
		}
		id, err := messageID(line)
		if long || err != nil || id <= c.lastID || id > protocol.MaxID {
			c.skip(number)
			continue
		}
		c.lastID = id
		last = append(last, candidate{id, number, bytes.Clone(line)})
		bytesKept += len(line)
		for len(last) > history.MaxMessages || bytesKept > history.MaxBytes {
			gone = last[:1]
			bytesKept -= len(last[0].text)
			last = last[1:]
		}
	}
	for _, l := range slices.Concat(gone, last) {
		m, err := protocol.DecodeMessage(l.text)
		if err != nil {
			c.skip(l.number)
			continue
		}
		c.messages = append(c.messages, m)
	}
	return c, nil
}

// skip notes that a line could not be read.
func (c *content) skip(number int) {
	c.bad++
	if c.firstBad == 0 || number < c.firstBad {
		c.firstBad = number
	}
}

// idPrefix is how a message begins, as ChatV1 spells it.
var idPrefix = []byte(`{"type":"message","id":`)

// messageID returns the id of a line that looks like a message. To decode all lines of a
// file, of which few are kept, would take several times as long.
func messageID(line []byte) (int64, error) {
	if rest, ok := bytes.CutPrefix(line, idPrefix); ok && bytes.HasSuffix(line, []byte("}")) {
		digits, _, _ := bytes.Cut(rest[:min(len(rest), 20)], []byte(","))
		return strconv.ParseInt(string(digits), 10, 64)
	}
	m, err := protocol.DecodeMessage(line)
	return m.ID, err
}
