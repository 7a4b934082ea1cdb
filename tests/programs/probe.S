    .intel_syntax noprefix
start:
    mov rsi, [rsp + 8]
    mov rax, [rsp]
    lea r14, [rsp + 8 * rax + 16]
    mov rdx, [r14]
    sub rdx, rsi
    call put
1:  mov rax, [r14]
    add r14, 8
    test rax, rax
    jnz 1b
2:  mov rax, [r14]
    mov rcx, [r14 + 8]
    add r14, 16
    cmp eax, 3
    jne 3f
    mov rsi, rcx
    mov edx, 56
    call put
3:  cmp eax, 5
    jne 4f
    lea rsi, [r14 - 8]
    mov edx, 8
    call put
4:  cmp eax, 9
    jne 5f
    mov r15, rcx
5:  test eax, eax
    jnz 2b
    lea rbp, [rip + start]
    lea rbx, [rip + table]
    mov r12d, [rbx]
    jmp 7f
6:  movsxd r13, dword ptr [rbx + 4 + 4 * r12]
    add r13, rbp
    mov rsi, r13
    mov edx, 16
    call put
    xor edi, edi
    mov rsi, r13
    mov edx, 1
    xor eax, eax
    syscall
    push rax
    mov rsi, rsp
    mov edx, 8
    call put
    pop rax
7:  dec r12d
    jns 6b
    cmp dword ptr [rbx + 4], 0
    je 8f
    jmp r15
8:  mov edi, 42
    mov eax, 60
    syscall
put:
    push rax
    push rcx
    mov edi, 1
    mov eax, 1
    syscall
    push rax
    mov rsi, rsp
    mov edx, 8
    mov eax, 1
    syscall
    pop rax
    pop rcx
    pop rax
    ret
    .balign 4
table:
