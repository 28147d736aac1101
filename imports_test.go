package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Dependencies run one way: from each of these files only to those in the same line or
// further down. Hub and Client know each other (deliver.go is Client's, too): that pair is
// the pattern.
var fileOrder = [][]string{
	{"main.go"},
	{"server.go"},
	{"rooms.go"},
	{"hub.go", "client.go", "deliver.go"},
	{"batch.go"},
}

func TestFilesDependOneWay(t *testing.T) {
	level := map[string]int{}
	for i, names := range fileOrder {
		for _, name := range names {
			level[name] = i
		}
	}
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		if _, ok := level[path]; !ok {
			t.Errorf("%s has no place in the order of files", path)
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	// Without the packages that are imported there are errors, but what is declared here
	// is resolved.
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: noPackages{}, Error: func(error) {}}
	config.Check("chat", fset, files, &info)
	edges := 0
	for id, object := range info.Uses {
		from, to := fset.Position(id.Pos()).Filename, fset.Position(object.Pos()).Filename
		if object.Pkg() == nil || object.Pkg().Path() != "chat" || from == to || to == "" {
			continue
		}
		edges++
		if level[from] > level[to] {
			t.Errorf("%s uses %s of %s", fset.Position(id.Pos()), id.Name, to)
		}
	}
	if edges < 50 {
		t.Errorf("only %d uses of another file's declarations were found", edges)
	}
}

// noPackages stands for all packages that are imported.
type noPackages struct{}

func (noPackages) Import(path string) (*types.Package, error) {
	pkg := types.NewPackage(path, path[strings.LastIndexByte(path, '/')+1:])
	pkg.MarkComplete()
	return pkg, nil
}

// Packages below internal are leaves: each imports these of ours, and of others' none but
// those named.
var imports = map[string][]string{
	"chat/internal/address":   {},
	"chat/internal/backlog":   {},
	"chat/internal/budget":    {},
	"chat/internal/connlimit": {},
	"chat/internal/cork":      {},
	"chat/internal/filelog":   {"chat/internal/history", "chat/internal/protocol"},
	"chat/internal/history":   {"chat/internal/protocol"},
	"chat/internal/inbound":   {"chat/internal/cork", "chat/internal/protocol"},
	"chat/internal/metrics":   {"chat/internal/protocol"},
	"chat/internal/page":      {},
	"chat/internal/presence":  {"chat/internal/protocol"},
	"chat/internal/protocol":  {},
	"chat/internal/ratelog":   {},
	"chat/internal/socket":    {},
	"chat/internal/wstest":    {"chat/internal/protocol"},
}

func TestPackagesAreLeaves(t *testing.T) {
	list := func(args ...string) []string {
		out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	isOurs := func(path string) bool { return strings.HasPrefix(path, "chat/") }
	isOthers := func(path string) bool { // begins with a host, which the standard library does not
		host, _, _ := strings.Cut(path, "/")
		return strings.Contains(host, ".")
	}
	for _, line := range list("-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./internal/...") {
		pkg, rest, _ := strings.Cut(line, " ")
		allowed, ok := imports[pkg]
		if !ok {
			t.Errorf("%s is not among the packages whose imports are known", pkg)
		}
		for _, path := range strings.Fields(rest) {
			if (isOurs(path) || isOthers(path)) && !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", pkg, path)
			}
		}
	}
	server := list("-deps", ".")
	for _, path := range server {
		switch {
		case path == "chat/internal/wstest":
			t.Error("the server imports what is for tests")
		case isOthers(path) && path != "github.com/gorilla/websocket":
			t.Errorf("the server imports %s", path)
		}
	}
	for pkg := range imports {
		if pkg != "chat/internal/wstest" && !slices.Contains(server, pkg) {
			t.Errorf("nothing imports %s", pkg)
		}
	}
}
