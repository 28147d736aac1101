package filelog

import (
	"strings"

	"chat/internal/protocol"
)

const (
	lobbyFile   = "lobby.jsonl" // of the room ""
	roomPrefix  = "room-"       // and a name of lower-case letters of ASCII, digits, - and _
	codedPrefix = "room+"       // and any other name, encoded; no name has a +
	suffix      = ".jsonl"      // of every room's file
	tempSuffix  = ".tmp"        // after the name of a file that is to replace it
)

// FileName returns the name of the file of a room. No two rooms share one on any file
// system, whether that ignores case, normalizes Unicode, or has devices for files. It has at
// most 255 bytes, as a room's name has at most protocol.MaxRoomName code points.
func FileName(room string) string {
	if room == "" {
		return lobbyFile
	}
	plain := protocol.PlainRoom(room)
	if coded, ok := strings.CutPrefix(plain, "+"); ok {
		return codedPrefix + coded + suffix
	}
	return roomPrefix + plain + suffix
}

// isRoomFile reports whether a file may be a room's, by its name.
func isRoomFile(name string) bool {
	return name == lobbyFile || strings.HasSuffix(name, suffix) && (strings.HasPrefix(name, roomPrefix) || strings.HasPrefix(name, codedPrefix))
}
