package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"chat/internal/wstest"
)

// What hostile clients cost, in sum: each limit that no single client exceeds.

// Every kind of request that is not a connection is answered as it should be.
func TestRefusedRequests(t *testing.T) {
	for _, request := range wstest.Requests("chat.test") {
		t.Run(request.What, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				chat := startChat(t)
				resp, body := chat.ask(request.Send)
				name, value, _ := strings.Cut(request.Header, ": ")
				if resp.StatusCode != request.Status || resp.Header.Get(name) != value {
					t.Errorf("%s %v %q", resp.Status, resp.Header, body)
				}
				chat.wantClients(0)
			})
		})
	}
}

// A page's origin counts with its scheme: only http and https are pages of a host.
func TestOriginScheme(t *testing.T) {
	for _, server := range []*server{newServer(nil, 0, 1), newServer([]string{"chat.example"}, 0, 1)} {
		for origin, want := range map[string]bool{
			"http://chat.example":             true,
			"https://chat.example":            true,
			"chrome-extension://chat.example": false,
			"file://chat.example":             false,
			"ws://chat.example":               false,
			"//chat.example":                  false,
		} {
			r := httptest.NewRequest("GET", "http://chat.example/ws", nil)
			r.Header.Set("Origin", origin)
			if server.allows(r) != want {
				t.Errorf("%q with -origin %q: %v", origin, server.origins, !want)
			}
		}
	}
}
