"""Hides how Nameko 2.14 and 3.0 differ in starting services and making calls."""

import eventlet

eventlet.monkey_patch()

import nameko  # noqa: E402
from nameko import rpc as nameko_rpc  # noqa: E402
from nameko.runners import ServiceRunner  # noqa: E402
from nameko.standalone.rpc import ClusterRpcProxy  # noqa: E402

IS_3 = hasattr(nameko, "config")


def configure(config):
    """Set the configuration before services are imported: 3.0 reads it when a class is defined."""
    configure.config = config
    if IS_3:
        nameko.config.setup(config)


def runner():
    return ServiceRunner() if IS_3 else ServiceRunner(configure.config)


def cluster(context_data, timeout):
    """Start a standalone proxy."""
    if IS_3:
        return ClusterRpcProxy(context_data=context_data, timeout=timeout).start()
    return ClusterRpcProxy(configure.config, context_data=context_data, timeout=timeout).start()


if IS_3:

    class AnyService(nameko_rpc.ClusterRpc):
        """Calls made in a service: ``self.cluster[service]``."""

else:

    class AnyService(nameko_rpc.RpcProxy):
        """Calls made in a service: ``self.cluster[service]``. 2.14 has proxies to one only."""

        def __init__(self):
            super().__init__("any")

        def get_dependency(self, worker_ctx):
            return _Services(worker_ctx, self.rpc_reply_listener)

    class _Services:
        def __init__(self, worker_ctx, reply_listener):
            self.made_of = worker_ctx, reply_listener

        def __getitem__(self, name):
            worker_ctx, reply_listener = self.made_of
            return nameko_rpc.ServiceProxy(worker_ctx, name, reply_listener)
