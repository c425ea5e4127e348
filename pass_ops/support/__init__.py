"""What the packages need that is no part of the method.

    jit        how the operations' loops are compiled
    importing  objects by import path, and the digest of their source
    extras     which extra of the install brings a package
    nearest    the advice after an unknown name
    secrecy    what a secret looks like, and how text is shown without it
    chat       which chats can be prompts
    temporary  temporary folders that say whose they are
    frames     what a kept exception keeps alive, let go

All but `jit` are stdlib only.
"""
