package business

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

func columns(names ...string) []*datav1.Column {
	list := make([]*datav1.Column, len(names))
	for i, name := range names {
		list[i] = &datav1.Column{Name: name}
	}
	return list
}

func TestUserFrom(t *testing.T) {
	names := columns("name", "id", "email", "updated_at", "created_at", "added_later")
	row := &datav1.Row{Version: 7, Values: []*datav1.Value{
		{Kind: &datav1.Value_TextBytes{TextBytes: []byte("Ad\xffa")}}, textValue("usr_1"), textValue("ada@example.com"),
		integerValue(2_000_000_001), integerValue(1_000_000_000), nil,
	}}
	got, err := userFrom(names, row)
	if err != nil {
		t.Fatal(err)
	}
	want := &businessv1.User{
		Id: "usr_1", Email: "ada@example.com", Name: "Ad\uFFFDa", Version: 7,
		CreateTime: timestamppb.New(time.Unix(1, 0)), UpdateTime: timestamppb.New(time.Unix(2, 1)),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("user (-want +got):\n%s", diff)
	}

	for name, broken := range map[string]*datav1.Row{
		"too few values": {Values: row.Values[:4]},
		"another type": {Values: []*datav1.Value{
			textValue("Ada"), textValue("usr_1"), nil, integerValue(1), integerValue(1), nil,
		}},
	} {
		if u, err := userFrom(names, broken); err == nil {
			t.Errorf("%s: read as %v", name, u)
		}
	}
}

func TestBoundAtIsTheStoredTime(t *testing.T) {
	for _, ns := range []int64{0, 1, -1, 1_795_440_077_465_000_000} {
		b := boundAt(&businessv1.Order{Id: "ord_1", CreateTime: timestamppb.New(time.Unix(0, ns))})
		if got := b.GetValues()[0].GetInteger(); got != ns {
			t.Errorf("bound of %d is %d", ns, got)
		}
	}
}
