package e2e

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Each of three servers has all the rooms that it may have open. What is said in any is heard in
// time on all.
func TestManyRoomsOnManyServers(t *testing.T) {
	const rooms = 999 // and the lobby
	nodes := startNodes(t, 3)
	var chats []*chat
	for range 3 {
		chats = append(chats, startShared(t, nodes))
	}
	members := make([][]*member, len(chats))
	before := make([]int, len(chats))
	begin := time.Now()
	var joining sync.WaitGroup
	for i, c := range chats {
		before[i] = residentMemory(t, c)
		members[i] = make([]*member, rooms)
		next := make(chan int, rooms)
		for n := range rooms {
			next <- n
		}
		close(next)
		for range 20 {
			joining.Go(func() {
				for n := range next {
					m, _, err := tryJoin(t, c.addr, url.Values{"room": {fmt.Sprint("room-", n)}, "name": {fmt.Sprint("u", i)}})
					for err == nil && len(m.received("hello")) == 0 && time.Since(begin) < patience {
						time.Sleep(5 * time.Millisecond)
					}
					if err != nil {
						t.Error(err)
					}
					members[i][n] = m
				}
			})
		}
	}
	joining.Wait()
	if t.Failed() {
		return
	}
	joined := time.Since(begin)

	begin = time.Now()
	for n := range rooms {
		members[n%len(chats)][n].say(fmt.Sprint("hello, room ", n), "")
	}
	for _, all := range members {
		for n, m := range all {
			m.wantTexts(fmt.Sprint("hello, room ", n))
		}
	}
	heard := time.Since(begin)
	for i, c := range chats {
		t.Logf("server %d: %d MiB for %d rooms", i+1, (residentMemory(t, c)-before[i])>>20, rooms)
	}
	t.Logf("%d rooms were joined on each of %d servers in %.1f s, and a line in each was received everywhere in %.1f s", rooms, len(chats), joined.Seconds(), heard.Seconds())
	if joined > 20*time.Second || heard > 10*time.Second {
		t.Errorf("joined in %v, received in %v", joined, heard)
	}
}

// residentMemory returns the resident memory of a server in bytes.
func residentMemory(t *testing.T, c *chat) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	kib, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
