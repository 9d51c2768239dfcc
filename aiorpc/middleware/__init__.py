"""
Wrappers of calls, on either side::

    async def middleware(call, handler):
        return await handler(call)
"""
