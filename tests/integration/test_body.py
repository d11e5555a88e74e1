"""The request's body: found, checked, and handed on byte for byte."""
import pytest

from harness import chat_body

EXACT = {
    "a number above 2^53": b'{"model":"m","seed":9007199254740993}',
    "a number no double holds": b'{"model":"m","x":1e400,"y":-1E-999,"z":0.1000000000000000055511151231257827}',
    "odd blanks": b' \t\r\n{ "model"\n:\t"m" ,\r\n "a" : [ 1 , 2 ] }\n\n ',
    "escapes": b'{"model":"m","t":"\\u0041\\u00e9\\ud83d\\ude00\\n\\/\\\\\\"\\b\\f\\r\\t"}',
    "an escaped key": b'{"\\u006dodel":"m","x":1}',
    "an escaped model": b'{"model":"\\u006d"}',
    "raw UTF-8": '{"model":"m","t":"é\U0001f600\u2028"}'.encode(),
    "bytes that are no UTF-8": b'{"model":"m","t":"\xff\xfe\x80"}',
    "a lone surrogate elsewhere": b'{"model":"m","t":"\\ud800"}',
    "keys given twice": b'{"a":1,"model":"m","a":2,"a":{}}',
    "model inside other objects": b'{"x":{"model":"y","MODEL":"z"},"model":"m","l":[{"model":"q"}]}',
    "model as a value": b'{"key":"model","model":"m","s":"\\"model\\":\\"x\\""}',
    "all kinds of values": b'{"model":"m","a":true,"b":false,"c":null,"d":-0,"e":[],"f":{},"g":"","h":1.5E+3}',
    "an empty key": b'{"":1,"model":"m"}',
    "nesting of 512": b'{"model":"m","a":' + b"[" * 511 + b"]" * 511 + b"}",
}


@pytest.fixture(scope="module")
def place(shared):
    up = shared.upstream()
    return up, shared.router(up)


@pytest.mark.parametrize("case", EXACT)
def test_forwarded_byte_for_byte(place, case):
    up, router = place
    assert router.post("/v1/chat/completions", EXACT[case]).status == 200
    assert up.last.body == EXACT[case]
    assert up.last.framing == "length"


def test_20_mb_with_the_image_before_the_model(place):
    up, router = place
    body = b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,' + b"iVBORw0K" * 2_621_440
    body += b'"}}]}],"model":"m"}'
    assert router.post("/v1/chat/completions", body).status == 200
    assert up.last.body == body


def test_model_after_64_kb(place):
    up, router = place
    body = chat_body("unknown", content="x" * 70_000)
    assert router.post("/v1/chat/completions", body.replace(b'"model": "unknown", ', b"")[:-1] + b',"model":"m"}').status == 200


def test_body_arriving_byte_by_byte(place):
    up, router = place
    client = router.connect()
    body = b'{"user":"a\\u0041","model":"m","n":[1,{"x":"y"}]}'
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body))
    for i in range(len(body)):
        client.send(body[i:i + 1])
    assert client.read_response().status == 200
    assert up.last.body == body
    client.close()


def test_head_arriving_byte_by_byte(place):
    up, router = place
    client = router.connect()
    body = b'{"model":"m"}'
    for byte in b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-One:  two \r\nContent-Length: %d\r\n\r\n" % len(body):
        client.send(bytes([byte]))
    client.send(body)
    assert client.read_response().status == 200
    assert up.last["X-One"] == "two"
    client.close()


@pytest.mark.parametrize("sizes", [[1] * 40, [7, 30, 3], [40], [16, 1, 23]])
def test_chunked_upload(place, sizes):
    up, router = place
    body = b'{"model":"m","prompt":"chunked and all"}'
    assert sum(sizes) == len(body) == 40
    client = router.connect()
    client.send(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    at = 0
    for size in sizes:
        client.send(b"%x\r\n%s\r\n" % (size, body[at:at + size]))
        at += size
    client.send(b"0\r\n\r\n")
    assert client.read_response().status == 200
    assert up.last.body == body
    assert up.last["Content-Length"] == "40" and not up.last.all("transfer-encoding")
    client.close()


def test_chunk_extensions_and_trailers_are_dropped(place):
    up, router = place
    client = router.connect()
    client.send(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
                b'D;name=v\r\n{"model":"m"}\r\n0\r\nX-Sum: 5\r\n\r\n')
    assert client.read_response().status == 200
    assert up.last.body == b'{"model":"m"}'
    assert not up.last.names & {"trailer", "x-sum", "transfer-encoding"}
    client.request("GET", "/health")
    assert client.read_response().body == b"ok"
    client.close()


def test_20_mb_chunked(place):
    up, router = place
    piece = b"x" * 65_536
    client = router.connect()
    client.send(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{\"prompt\":\"\r\n")
    for _ in range(320):
        client.send(b"10000\r\n" + piece + b"\r\n")
    client.send(b'd\r\n","model":"m"\r\n1\r\n}\r\n0\r\n\r\n')
    assert client.read_response().status == 200
    assert up.last.body == b'{"prompt":"' + piece * 320 + b'","model":"m"}'
    client.close()


@pytest.mark.parametrize("body", [
    b"", b" ", b"[]", b'["model","m"]', b'"m"', b"5", b"null", b"{", b'{"model":"m"', b'{"model":"m"}}', b'{"model":"m"}x', b'{"model":"m"}{}',
    b'{"model":"m",}', b"{'model':'m'}", b'{model:"m"}', b'{"model":"m" "x":1}', b'{"model" "m"}', b'{"model":"m","a":01}', b'{"model":"m","a":+1}',
    b'{"model":"m","a":.5}', b'{"model":"m","a":1.}', b'{"model":"m","a":1e}', b'{"model":"m","a":NaN}', b'{"model":"m","a":tru}',
    b'{"model":"m","a":TRUE}', b'{"model":"m","a":[1,]}', b'{"model":"m","a":[1}', b'{"model":"m","a":"\x01"}', b'{"model":"m","a":"\n"}',
    b'{"model":"m",/*c*/"a":1}', b'\xef\xbb\xbf{"model":"m"}', b'{"model":"m"}\0', b'{"model":"m","a":"', b'{"model":"m","a":0x1}',
    '{"model":"m"}'.encode("utf-16"), b'{"model":"m","a":' + b"[" * 512 + b"]" * 512 + b"}", b'{"model":"m",1:2}', b'{"model":"m","a":-}',
], ids=lambda b: repr(b[:24]))
def test_what_is_no_json_object_is_refused(place, body):
    up, router = place
    seen = len(up.requests)
    response = router.post("/v1/chat/completions", body)
    assert response.status == 400
    error = response.error
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_json", None)
    assert len(up.requests) == seen


@pytest.mark.parametrize("body", [
    b'{"messages":[]}', b'{"model":null}', b'{"model":5}', b'{"model":["m"]}', b'{"model":{"id":"m"}}', b'{"model":true}', b'{"model":""}',
    b'{"model":"m\\u0000"}', b'{"model":"\\u0000"}', b'{"model":"m","model":"m"}', b'{"model":"m","MODEL":"secret"}', b'{"Model":"x","model":"m"}',
    b'{"model":"m","mod\\u0065l":"x"}', b'{"model":"m","\\u004dodel":"x"}',
], ids=lambda b: repr(b[:40]))
def test_what_names_no_model_is_refused(place, body):
    up, router = place
    seen = len(up.requests)
    response = router.post("/v1/chat/completions", body)
    assert response.status == 400
    error = response.error
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_model", "model")
    assert len(up.requests) == seen


def test_a_refused_body_leaves_the_connection_usable(place):
    _, router = place
    client = router.connect()
    for body in (b"{", b'{"model":""}', b'{"model":"m"}'):
        client.request(body=body)
    assert [client.read_response().status for _ in range(3)] == [400, 400, 200]
    client.close()


def test_nothing_reaches_an_endpoint_before_the_body_is_whole(lab):
    up, router, client = lab.scripted_pair()
    body = chat_body("m")
    client.request(body=body[:-1], headers=[("Content-Length", str(len(body)))], length=False)
    assert up.no_connection()
    client.send(body[-1:])
    up.accept().rxreq()


@pytest.mark.parametrize("boundary_error", ["no boundary", "no end", "no model", "two models", "model is a file", "empty model"])
def test_forms_that_name_no_model(place, boundary_error):
    up, router = place
    seen = len(up.requests)
    field = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    file = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n'
    headers = [("Content-Type", "multipart/form-data; boundary=B")]
    body = {
        "no boundary": field + b"--B--\r\n", "no end": field + file, "no model": file + b"--B--\r\n", "two models": field + field + b"--B--\r\n",
        "model is a file": file.replace(b'"file"', b'"model"') + b"--B--\r\n", "empty model": field.replace(b"\r\nm\r\n", b"\r\n\r\n") + b"--B--\r\n",
    }[boundary_error]
    if boundary_error == "no boundary":
        headers = [("Content-Type", "multipart/form-data")]
    response = router.request("POST", "/v1/audio/transcriptions", body, headers)
    assert response.status == 400 and response.error["type"] == "invalid_request_error"
    if boundary_error not in ("no boundary", "no end"):
        assert response.error["code"] == "invalid_model" and response.error["param"] == "model"
    assert len(up.requests) == seen
