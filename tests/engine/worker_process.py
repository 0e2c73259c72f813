"""The front's end of the stream to a device process, for tests that run one's loop in a thread."""

from assay import worker_protocol


def heard(stream):
    """Return what the device says next; None when it is gone."""
    header = read(stream, worker_protocol.HEADER.size)
    return (
        worker_protocol.decode_answer(read(stream, worker_protocol.answer_size(header)))
        if header
        else None
    )


def read(stream, size):
    """Return so many bytes; fewer when the other end is gone."""
    whole = bytearray()
    while len(whole) < size and (part := stream.recv(size - len(whole))):
        whole += part
    return bytes(whole)
