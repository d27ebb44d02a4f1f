package stamp_test

import (
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/hotrpc"
)

// getNow is get by id on the way of a hot method, which may leave it to the general one.
func (w *world) getNow(mark string, id int64) (*datav1.Answer, error) {
	res, ok, err := now[datav1.GetResponse](w.path.GetNow, &datav1.GetRequest{
		Database: "shop", Table: "users", Key: idKey(id), Consistency: &datav1.Consistency{Bookmark: mark},
	})
	if err != nil || !ok {
		return primaryAnswer, err
	}
	w.now.Add(1)
	return res.GetAnswer(), w.wrong(res.GetAnswer(), mark, rowText(res.GetRow()), func(s *state) string { return s.text(id) })
}

// batchNow is batch on the way of a hot method.
func (w *world) batchNow(mark string, ids ...int64) (*datav1.Answer, error) {
	req := &datav1.BatchGetRequest{Database: "shop", Table: "users", Consistency: &datav1.Consistency{Bookmark: mark}}
	for _, id := range ids {
		req.Keys = append(req.Keys, idKey(id))
	}
	res, ok, err := now[datav1.BatchGetResponse](w.path.BatchGetNow, req)
	if err != nil || !ok {
		return primaryAnswer, err
	}
	w.batchesNow.Add(1)
	return w.checkBatch(res, mark, ids)
}

func (w *world) checkBatch(res *datav1.BatchGetResponse, mark string, ids []int64) (*datav1.Answer, error) {
	var got []string
	for _, r := range res.GetResults() {
		got = append(got, rowText(r.GetRow()))
	}
	return res.GetAnswer(), w.wrong(res.GetAnswer(), mark, strings.Join(got, "\n"), func(s *state) string {
		var want []string
		for _, id := range ids {
			want = append(want, s.text(id))
		}
		return strings.Join(want, "\n")
	})
}

// now asks a hot method; ok is false where it did not answer.
func now[Res any, P interface {
	*Res
	proto.Message
}](method hotrpc.Method, req proto.Message) (res P, ok bool, err error) {
	encoded, err := proto.Marshal(req)
	if err != nil {
		return nil, false, err
	}
	var a hotrpc.Answer
	if !method(nil, http.Header{}, encoded, &a) {
		return nil, false, nil
	}
	res = new(Res)
	return res, true, proto.Unmarshal(a.Message, res)
}
