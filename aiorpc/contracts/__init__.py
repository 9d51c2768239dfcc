"""
Contracts: what services promise to each other, as an AsyncAPI 3 document.

``describing`` reads service classes, ``writing`` and ``reading`` are the document, ``differences``
compares two contracts, and ``stubs`` writes Python for callers. All of them share the values in
``model``. Nothing here awaits or connects.
"""
