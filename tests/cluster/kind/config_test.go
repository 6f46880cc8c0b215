// Package sallyport holds kind-config.yaml to what kind itself accepts: it reads the
// file with the loader and the checks that `kind create cluster` uses. It touches
// nothing else, and needs no Docker.
package sallyport

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/kind/pkg/internal/apis/config"
	"sigs.k8s.io/kind/pkg/internal/apis/config/encoding"
)

const path = "../../../kind-config.yaml"

func TestKindAcceptsTheConfiguration(t *testing.T) {
	cluster, err := encoding.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Validate(); err != nil {
		t.Fatal(err)
	}
	if cluster.Name != "sallyport" {
		t.Errorf("make kind loads images into a cluster named sallyport, this one is %q", cluster.Name)
	}
	if len(cluster.Nodes) != 1 || cluster.Nodes[0].Role != config.ControlPlaneRole {
		t.Errorf("want one control-plane node, got %+v", cluster.Nodes)
	}
}

func TestTheNodeImageIsLeftToKind(t *testing.T) {
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "image:") {
		t.Error("an image is pinned: it would age faster than kind's own default")
	}
}

func TestKindRefusesAFieldItDoesNotKnow(t *testing.T) {
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := encoding.Parse(append(raw, []byte("nodez: []\n")...)); err == nil {
		t.Error("the loader would not have noticed a misspelt field")
	}
}
