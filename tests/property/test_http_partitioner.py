"""Our partitioner against kafka-python's murmur2, an independent implementation of the Java client's."""

import warnings

from hypothesis import given
from hypothesis import strategies as st

from gridwire.wire.http.partitioner import murmur2, partition_of

with warnings.catch_warnings():  # the library reads its own resources in a deprecated way
    warnings.simplefilter("ignore")
    from kafka.partitioner.default import murmur2 as oracle


@given(st.binary(max_size=300), st.integers(1, 1024))
def test_like_the_java_client(key, partitions):
    assert murmur2(key) == oracle(key) & 0xFFFFFFFF
    expected = (oracle(key) & 0x7FFFFFFF) % partitions
    assert partition_of(key, partitions) == expected
    assert partition_of(key, partitions) == expected  # and from the cache
